"""What stands around each hook: old names of arguments. The rest is tested with the host, which calls every hook."""

from __future__ import annotations

from typing import Any

import pytest

from hookline import PluginError, hookimpl, train
from hookline.engine.hookspecs import RENAMED, Renamed

SMALL = {"train": {"epochs": 2, "batch_size": 4}, "data": {"num_examples": 8}}


class Old:
    """Takes an argument by the name that it had once."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def on_epoch_end(self, run: Any, scores: Any) -> None:
        self.seen.append((run.epoch, dict(scores)))


def test_an_old_name_of_an_argument_works_and_warns_with_plugin_and_removal(monkeypatch: pytest.MonkeyPatch) -> None:
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
