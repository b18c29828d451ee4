"""Every default plugin meets the contract of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from hookline import Catalog, DataSource, RunView, hookimpl
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
    "compile": {"backend": "eager"},  # the default compiles C++, which takes most of a minute
    "averaging": {"at_end": "raw"},  # loading the average at the end changes the result on purpose
    "freeze": {"parameters": ["*bias"]},
    "lora": {"targets": ["*"], "rank": 4},
    "limit-examples": {"num_examples": 12},
    "transformers": {
        "task": "image-classification",
        "architecture": "vit",
        "config": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "image_size": 4,
            "patch_size": 2,
            "num_channels": 1,
        },
    },
}
NEEDED = {"lora": "peft", "transformers": "transformers"}
"""Optional packages, by the plugins that need them."""
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "fuse-steps": dict.fromkeys(
        (
            "survives_every_ending",
            "changes_no_result",
            "resumes_where_it_was",
            "closes_what_it_opens",
            "two_live_in_one_run",
            "a_second_run_is_like_the_first",
            "leaves_events_alone",
        ),
        "it rejects the kit's model, which has dropout, and its callbacks, which follow each step",
    ),
    "sparse-adam": dict.fromkeys(
        (
            "lowers_the_loss",
            "resumes_exactly",
            "leaves_the_others_alone",
            "state_is_plain",
            "draws_no_numbers",
            "steps_are_repeatable",
        ),
        "it rejects dense gradients, which the kit's model has",
    ),
    "limit-examples": {"leaves_events_alone": "fewer examples give fewer steps"},
    "lora": {"two_live_in_one_run": "a second instance is refused, because it would freeze the first one's adapters"},
    "run-folder": {
        "state_round_trip": "its state holds the size of its files, and the kit loads it for other files",
        "two_live_in_one_run": "a run has one folder, so a second instance is refused",
    },
}


def images() -> DataSource:
    """Return three classes of random images, which a model of transformers takes as they are."""
    images = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(images, torch.arange(24) % 3), out_features=3, task="classification")


ELSEWHERE = [("callback", "checkpoint"), ("loss", "transformers")]
"""Plugins that are checked below, or that have no meaning without another plugin."""


@pytest.mark.parametrize(
    "entry",
    [entry for entry in OWN if (entry.kind, entry.name) not in ELSEWHERE],
    ids=lambda entry: f"{entry.kind}-{entry.name}",
)
def test_a_default_plugin_meets_the_contract_of_its_kind(entry: Entry) -> None:
    if needed := NEEDED.get(entry.name):
        pytest.importorskip(needed, reason=f"the extra {needed} is not installed")
    report = check_plugin(
        entry.kind,
        entry.qualified_name,
        data=images() if entry.name == "transformers" else None,
        options=OPTIONS.get(entry.name, {}),
        expected_failures=EXPECTED_FAILURES.get(entry.name, {}),
    )
    assert len(report.ran) > len(report.skipped)


@dataclass
class SaveInAFolder(SaveCheckpoints):
    """The callback ``checkpoint`` with a run folder, which it needs but does not create."""

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        self.made = folder_of(run) or RunFolder.claim(Path("runs"), "kit")
        give_folder(run, self.made)
        super().on_run_start(run)

    @hookimpl(trylast=True)
    def on_run_end(self, run: RunView) -> None:
        super().on_run_end(run)
        self.made.close()


def test_the_callback_checkpoint_meets_the_contract_of_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # from here, another process cannot import this module
    refused = {
        "two_live_in_one_run": "a second instance is refused, because it would remove the first one's checkpoints"
    }
    options = {"every_steps": 1, "in_background": True}
    check_plugin("callback", SaveInAFolder, options=options, expected_failures=refused)
