"""Training by several ranks of which each has a part of the model."""

from __future__ import annotations

from typing import Any

import pytest

from hookline.engine import Ranks
from several import in_ranks
from unit.ranks.test_training import run_of, same, weights


@pytest.mark.parametrize("num", [40, 41, 47])
@pytest.mark.parametrize("optimizer", [{"use": "sgd", "lr": 0.1}, {"use": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shared_out_weights_end_with_the_bits_of_whole_ones(dtype: str, optimizer: dict[str, Any], num: int) -> None:
    tables: dict[str, Any] = {"num": num, "optimizer": optimizer, "train": {"dtype": dtype}}

    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, **tables, parallel={"use": "fsdp", "wrap": ["Linear"]})
        run.fit()
        whole = run_of(ranks, **tables, parallel="ddp")
        whole.fit()
        return [ranks.whole(weights(run)), weights(whole), dict(run.history[-1]), dict(whole.history[-1])]

    for sharded, whole, metrics, metrics_of_whole in in_ranks(2, trained):
        assert same(sharded, whole)
        assert metrics == metrics_of_whole
