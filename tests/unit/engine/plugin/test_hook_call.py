"""Tests of old names of arguments of hooks. The rest of ``hook_call`` is tested with the host."""

from __future__ import annotations

from typing import Any

import pytest

from hookline import PluginError, hookimpl, train
from hookline.config.plugins.hook_checks import RENAMED, Renamed

SMALL = {"train": {"epochs": 2, "batch_size": 4}, "data": {"num_examples": 8}}


class Old:
    """Takes an argument by its old name."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def on_epoch_end(self, run: Any, scores: Any) -> None:
        self.seen.append((run.epoch, dict(scores)))


def test_an_old_name_of_an_argument_works_with_a_warning_about_its_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "on_epoch_end", {"scores": Renamed("metrics", since="0.2", removed_in="0.3")})
    old = Old()
    result = train(SMALL, plugins={"callbacks.old": old})
    assert old.seen == [(1, dict(result.history[0])), (2, dict(result.history[1]))]
    assert result.warnings == (
        (
            "callback 'Old' (given from Python) takes 'scores' in hook 'on_epoch_end', which was renamed to 'metrics' "
            "in 0.2; the old name is refused from 0.3 on"
        ),
    )


def test_a_name_that_an_argument_never_had_is_refused() -> None:
    with pytest.raises(PluginError, match="takes 'scores', which the hook does not provide"):
        train(SMALL, plugins={"callbacks.old": Old()})
