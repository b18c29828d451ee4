"""Layers of the model ``gpt``.

Imported only when it is built, because it needs torch. Shapes: ``B`` sequences, ``T`` tokens in each, ``V`` different
tokens, ``W`` width, ``H`` heads, ``D = W / H`` numbers of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_STD = 0.02
"""Standard deviation of initial weights, as in GPT-2."""
_BASE = 10000.0
"""Base of the wavelengths of rotary positions. Source: J. Su et al., https://arxiv.org/abs/2104.09864."""


class Transformer(nn.Module):
    """A decoder of tokens: predicts the next token at each position from that position and those before.

    Args:
        vocabulary: ``V``.
        context: The largest ``T``.
        sizes: Number of layers, ``H`` and ``W``.
        dropout: Probability of zeroing a value.
        is_rotary: Whether positions rotate queries and keys, instead of being embedded.
        is_tied: Whether the weights of the embedding are those of the output, too.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        sizes: tuple[int, int, int],
        dropout: float,
        *,
        is_rotary: bool,
        is_tied: bool,
    ) -> None:
        super().__init__()
        layers, heads, width = sizes
        self.context = context
        self.head_width = width // heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = None if is_rotary else nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = None if is_tied else nn.Linear(width, vocabulary, bias=False)
        self._initialize(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token at each position, ``[B, V, T]``, from tokens int64 ``[B, T]``.

        The classes are the second dimension, as in ``nn.CrossEntropyLoss``.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"the sequences have {length} tokens, but the context of the model is {self.context}")
        hidden = self.tokens(tokens)
        rotation = None
        if self.positions is None:
            rotation = rotations(length, self.head_width, hidden)
        else:
            hidden = hidden + self.positions.weight[:length]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden, rotation)
        weight = self.tokens.weight if self.output is None else self.output.weight
        logits: Tensor = functional.linear(self.norm(hidden), weight).transpose(1, 2)
        return logits

    def _initialize(self, layers: int) -> None:
        """Draw the initial weights as GPT-2 does: those that end in a residual are smaller in a deeper model."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                is_residual = name.endswith(("attention.output.weight", "mlp.output.weight"))
                nn.init.normal_(parameter, std=_STD / math.sqrt(2 * layers) if is_residual else _STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class Block(nn.Module):
    """Attention and a network for each position, each normalized before and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return ``[B, T, W]`` from ``[B, T, W]``."""
        hidden = hidden + self.attention(self.attention_norm(hidden), rotation)
        output: Tensor = hidden + self.mlp(self.mlp_norm(hidden))
        return output


class Attention(nn.Module):
    """Causal attention with several heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return ``[B, T, W]`` from ``[B, T, W]``."""
        parts = self.qkv(hidden).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # [B, H, T, D] each
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        dropout = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        output: Tensor = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        return output


class MLP(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 4 * width)
        self.output = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``[B, T, W]`` from ``[B, T, W]``."""
        output: Tensor = self.dropout(self.output(functional.gelu(self.hidden(hidden))))
        return output


def rotations(length: int, head_width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the angle of each position and pair of numbers, ``[T, D / 2]``, as ``like`` is.

    They are computed in float32 each time, from whole numbers: a run casts what it finds in a buffer to its dtype, and
    bfloat16 has no whole numbers between 256 and 258.
    """
    pairs = torch.arange(0, head_width, 2, device=like.device, dtype=torch.float32)
    positions = torch.arange(length, device=like.device, dtype=torch.float32)
    angles = torch.outer(positions, _BASE ** (-pairs / head_width))
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotated(values: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``[B, H, T, D]`` with each pair of numbers, of the first and the second half, rotated by its angle."""
    first, second = values.chunk(2, dim=-1)
    cos, sin = rotation
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
