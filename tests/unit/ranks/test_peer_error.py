"""A rank that fails is named to the others."""

from __future__ import annotations

from typing import Any

from hookline.engine import Ranks
from several import in_ranks


def test_the_other_ranks_raise_a_peer_error_that_names_the_rank_that_failed() -> None:
    def task(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            raise ValueError("the disk is full")
        return ranks.gather("here")

    first, second = in_ranks(2, task)
    assert second["error"] == "ValueError"
    assert first["error"] == "PeerError"
    assert first["text"].startswith("rank 1 on ")
    assert "failed: ValueError: the disk is full" in first["text"]
