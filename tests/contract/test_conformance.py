"""Every default plugin keeps the contract of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, RunView, hookimpl
from hookline.engine import Entry
from hookline.runs import RunFolder, folder_of, give_folder
from hookline.testing import check_plugin
from hookline_plugins.callbacks.checkpoint import SaveCheckpoints
from support import FIXTURES

OWN = [entry for entry in Catalog.installed().entries if entry.distribution == "hookline"]
OPTIONS: dict[str, dict[str, Any]] = {
    "csv": {"path": str(FIXTURES / "nist" / "norris.csv"), "target": "y"},
    "arrays": {"path": str(FIXTURES / "iris" / "iris.npz")},
    "clip-gradients": {"max_norm": 1.0},
    "compile": {"backend": "eager"},  # the default makes C++, which takes most of a minute
    "averaging": {"at_end": "raw"},  # the average in the end is a change that it is asked for
    "freeze": {"parameters": ["*bias"]},
}
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "run-folder": {
        "state_round_trip": "its state says how much of its own files counts, and the kit takes other files",
        "two_live_in_one_run": "a run has one folder, and a second keeper of it is refused",
    },
}


@pytest.mark.parametrize(
    "entry", [entry for entry in OWN if entry.name != "checkpoint"], ids=lambda entry: f"{entry.kind}-{entry.name}"
)
def test_a_default_plugin_keeps_the_contract_of_its_kind(entry: Entry) -> None:
    report = check_plugin(
        entry.kind,
        entry.qualified_name,
        options=OPTIONS.get(entry.name, {}),
        expected_failures=EXPECTED_FAILURES.get(entry.name, {}),
    )
    assert len(report.ran) > len(report.skipped)


@dataclass
class SaveInAFolder(SaveCheckpoints):
    """The callback ``checkpoint`` with a run folder, which it needs and does not make."""

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        self.made = folder_of(run) or RunFolder.claim(Path("runs"), "kit")
        give_folder(run, self.made)
        super().on_run_start(run)

    @hookimpl(trylast=True)
    def on_run_end(self) -> None:
        self.made.close()


def test_the_callback_checkpoint_keeps_the_contract_of_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where this module cannot be imported by its name
    refused = {"two_live_in_one_run": "the second would remove what the first keeps, and is refused"}
    options = {"every_steps": 1, "in_background": True}
    check_plugin("callback", SaveInAFolder, options=options, expected_failures=refused)
