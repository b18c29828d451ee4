"""Continuations of prompts: tokens drawn one after the other from the predictions of a model.

Imported only when text is generated, because it needs torch. Shapes: ``B`` prompts, ``T`` tokens, ``V`` tokens of the
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from hookline.engine import RandomMark, evaluation_mode, prediction_of

if TYPE_CHECKING:
    from hookline import RunView
    from hookline_plugins.data.text.tokens import Tokenizer


class Sampling(NamedTuple):
    """How to draw tokens.

    Attributes:
        new_tokens: Number of tokens to add to a prompt.
        temperature: Divisor of the logits; 0: always the most probable token.
        top_k: Number of most probable tokens to draw from; 0: all.
    """

    new_tokens: int
    temperature: float
    top_k: int


def continued(
    run: RunView, tokenizer: Tokenizer, context: int, prompts: Sequence[str], sampling: Sampling, seed: int
) -> list[str]:
    """Return the text that the model of a run writes after each prompt; torch's random numbers are left alone.

    Args:
        run: The run.
        tokenizer: The tokenizer of its data.
        context: The largest number of tokens that the model takes.
        prompts: The texts to continue; after an empty one, a new text begins.
        sampling: How to draw tokens.
        seed: Seed of the first prompt; the others have the numbers after it.
    """

    def predict(tokens: Tensor) -> Tensor:
        prediction: Tensor = prediction_of(run.model(tokens.to(run.device)))
        return prediction.cpu()

    start = [0 if tokenizer.end is None else tokenizer.end]
    tokens = [encoded.tolist() or start for encoded in tokenizer.encode(prompts)]
    generators = [Generator().manual_seed(seed + number) for number in range(len(prompts))]
    mark = RandomMark(run.device)
    with torch.no_grad(), evaluation_mode(run.model):
        found = continuations(predict, tokens, sampling, generators, context, tokenizer.end)
    mark.restore()
    return [tokenizer.decode(each) for each in found]


def continuations(
    predict: Callable[[Tensor], Tensor],
    prompts: Sequence[list[int]],
    sampling: Sampling,
    generators: Sequence[Generator],
    context: int,
    end: int | None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt; a continuation ends before the token between documents.

    Args:
        predict: Returns the logits of the next tokens, ``[B, V, T]``, for tokens ``[B, T]`` on the CPU.
        prompts: The tokens of each prompt, at least one.
        sampling: How to draw.
        generators: One for each prompt, so that it does not depend on the others; on the CPU.
        context: The largest ``T``; of longer texts, the last tokens are used.
        end: The token between documents.
    """
    texts = [list(prompt) for prompt in prompts]
    active = list(range(len(texts)))
    for _ in range(sampling.new_tokens):
        windows = [texts[number][-context:] for number in active]
        # Padded on the right: no prediction depends on later tokens.
        padded = torch.zeros(len(windows), max(map(len, windows)), dtype=torch.int64)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = torch.tensor(window)
        logits = predict(padded)
        going: list[int] = []
        for row, number, window in zip(logits, active, windows, strict=True):
            token = drawn(row[:, len(window) - 1], sampling, generators[number])
            if token != end:
                texts[number].append(token)
                going.append(number)
        active = going
        if not active:
            break
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def drawn(logits: Tensor, sampling: Sampling, generator: Generator) -> int:
    """Return a token drawn by its logits ``[V]``."""
    if not sampling.temperature:
        return int(logits.argmax())
    scaled = logits.double() / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        scaled = scaled.where(scaled >= scaled.topk(sampling.top_k).values[-1], -torch.inf)
    return int(torch.multinomial(scaled.softmax(0), 1, generator=generator))
