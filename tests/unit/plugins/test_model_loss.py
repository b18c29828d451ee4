"""Loss ``model-loss``: the loss that the model computes itself, weighted by the targets that count."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import hookline
from hookline import ContractError, DataSource

WORDS = torch.randint(1, 10, (12, 5), generator=torch.Generator().manual_seed(0))
for _row, _length in enumerate([5, 2, 3, 1, 4, 5, 2, 2, 5, 3, 1, 4]):
    WORDS[_row, _length:] = 0
LABELS = torch.where(WORDS == 0, -100, WORDS)
ROWS = [{"input_ids": words, "labels": labels} for words, labels in zip(WORDS, LABELS, strict=True)]


class Reader(nn.Module):
    """Predicts a word for each word, or with ``is_shifted`` the next one, as language models do."""

    def __init__(self, *, is_shifted: bool) -> None:
        super().__init__()
        self.is_shifted = is_shifted
        self.words = nn.Embedding(10, 10)
        with torch.no_grad():
            self.words.weight.copy_(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)))

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.words(input_ids)
        if labels is None:
            return {"logits": logits}
        given = (logits[:, :-1], labels[:, 1:]) if self.is_shifted else (logits, labels)
        loss = functional.cross_entropy(*(part.flatten(0, 1) for part in given), ignore_index=-100)
        return {"loss": loss, "logits": logits}


def run_of(*, is_shifted: bool, **train: Any) -> hookline.Run:
    plugins = {"data": DataSource(ROWS), "model": Reader(is_shifted=is_shifted)}
    loss = {"use": "model-loss", "next_token": is_shifted}
    source = {"loss": loss, "optimizer": {"lr": 1.0}, "train": {"epochs": 2, "batch_size": 6, **train}}
    return hookline.Run(hookline.load_config(source, plugins=plugins))


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize("size", [1, 4, 12])
def test_the_loss_of_an_evaluation_is_the_mean_over_the_words_that_count(is_shifted: bool, size: int) -> None:
    log_probabilities = Reader(is_shifted=is_shifted).words.weight.log_softmax(1)
    losses = []
    for words in WORDS.tolist():
        pairs = itertools.pairwise(words) if is_shifted else zip(words, words, strict=True)
        losses += [-log_probabilities[word, target].item() for word, target in pairs if target]
    expected = sum(losses) / len(losses)
    run = run_of(is_shifted=is_shifted, eval_batch_size=size)
    assert run.evaluate()["train/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("is_shifted", [False, True])
def test_micro_batches_of_different_lengths_give_the_step_of_the_whole_batch(is_shifted: bool) -> None:
    weights = []
    for size in (0, 1, 4):
        run = run_of(is_shifted=is_shifted, micro_batch_size=size)
        run.fit()
        weights.append(run.model.get_parameter("words.weight").detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-6)
    assert torch.allclose(weights[0], weights[2], atol=1e-6)


def test_a_model_without_a_loss_is_refused() -> None:
    plugins = {
        "data": DataSource([(row["input_ids"].float(), torch.ones(1)) for row in ROWS]),
        "model": nn.Linear(5, 1),
    }
    with pytest.raises(ContractError, match="without a loss"):
        hookline.Run(hookline.load_config({"loss": "model-loss"}, plugins=plugins))
