"""Model ``gpt``: a small decoder of tokens, as GPT-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl

if TYPE_CHECKING:
    from torch import nn


_Count = Annotated[int, Meta(ge=1)]


@dataclass
class GPT:
    """A language model: a transformer that predicts, at each position, the next token.

    Inputs are tokens, int64 ``[B, T]``; predictions are logits ``[B, V, T]``, with the classes second, as the loss
    ``cross-entropy`` takes them for targets ``[B, T]``. ``V`` is ``out_features`` of the data, and ``T`` is that of
    their examples; shorter sequences are possible as well.

    Layers are normalized before attention and network (pre-norm), as in GPT-2, with GELU between layers of four times
    the width. Initial weights are those of GPT-2: normal with standard deviation 0.02, divided by ``sqrt(2 * layers)``
    where a result is added to its input; biases are 0. Source: A. Radford et al., "Language Models are Unsupervised
    Multitask Learners" (2019). The default sizes are those of nanoGPT's example for a CPU,
    https://github.com/karpathy/nanoGPT. Rotary positions: J. Su et al., https://arxiv.org/abs/2104.09864.

    Modules are named ``blocks.0.attention.qkv``, ``blocks.0.attention.output``, ``blocks.0.mlp.hidden`` and
    ``blocks.0.mlp.output``, for ``gradient-checkpointing`` and ``lora``.
    """

    layers: Annotated[_Count, Meta(description="number of layers")] = 4
    heads: Annotated[_Count, Meta(description="heads of attention in each layer")] = 4
    width: Annotated[_Count, Meta(description="numbers that stand for a token; a multiple of `heads`")] = 128
    dropout: Annotated[float, Meta(ge=0, lt=1, description="probability of zeroing a hidden value")] = 0.0
    positions: Annotated[
        Literal["learned", "rotary"], Meta(description="an embedding of each position, or rotations of pairs")
    ] = "rotary"
    tie_weights: Annotated[bool, Meta(description="use the weights of the embedding for the output, too")] = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`width` = {self.width} is not a multiple of `heads` = {self.heads}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            message = f"rotary positions need an even `width` / `heads`, not {self.width} / {self.heads}"
            raise ValueError(message)

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the model for the tokens and the context of the data."""
        from hookline_plugins.models.gpt_layers import Transformer

        return Transformer(
            _vocabulary(data),
            _context(data),
            (self.layers, self.heads, self.width),
            self.dropout,
            is_rotary=self.positions == "rotary",
            is_tied=self.tie_weights,
        )


def _vocabulary(data: DataSource) -> int:
    if data.out_features is None:
        hint = "set out_features in the DataSource that build_data returns; the data source corpus does"
        raise ContractError("the model gpt needs the number of tokens, which the data source does not give", hint=hint)
    return data.out_features


def _context(data: DataSource) -> int:
    """Return the number of tokens in an example.

    Raises:
        ContractError: If the examples are not sequences of tokens.
    """
    from hookline.engine import brief

    example = data.train[0] if hasattr(data.train, "__len__") else None
    inputs = example[0] if isinstance(example, tuple) else example
    if inputs is None or getattr(inputs, "ndim", 0) != 1 or inputs.is_floating_point():
        message = f"the model gpt needs sequences of tokens, int64 [T], but an example is {brief(example)}"
        raise ContractError(message, hint="use the data source corpus")
    return len(inputs)
