"""Every default plugin meets the contract of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import Catalog, DataSource, RunView, from_arrays, hookimpl
from hookline.config import Entry
from hookline.runs import RunFolder, folder_of, give_folder
from hookline.testing import check_plugin
from hookline_plugins.callbacks.checkpoint import SaveCheckpoints
from hookline_plugins.data.text.labelled.source import Texts
from support import FIXTURES

OWN = [entry for entry in Catalog.installed().entries if entry.distribution == "hookline"]
OPTIONS: dict[str, dict[str, Any]] = {
    "csv": {"path": str(FIXTURES / "nist" / "norris.csv"), "target": "y"},
    "corpus": {"path": str(FIXTURES / "iris" / "README.md"), "context": 8, "split": [0.8, 0.2]},
    "gpt": {"layers": 1, "heads": 2, "width": 8},
    "samples": {"new_tokens": 3, "prompts": ["abc"]},
    "arrays": {"path": str(FIXTURES / "iris" / "iris.npz")},
    "hugging-face": {
        "path": str(FIXTURES / "iris" / "iris.csv"),
        "inputs": ["sepal_length", "petal_length"],
        "target": "species",
    },
    "parquet": {"path": str(FIXTURES / "nist" / "norris.parquet"), "target": "y", "block_rows": 8, "window": 2},
    "texts": {"path": str(FIXTURES / "sentences" / "sentences.csv"), "target": "source", "buckets": 100},
    "clip-gradients": {"max_norm": 1.0},
    "compile": {"backend": "eager"},  # the default compiles C++, which takes most of a minute
    "averaging": {"at_end": "raw"},  # loading the average at the end changes the result on purpose
    "freeze": {"parameters": ["*bias"]},
    "gradient-checkpointing": {"modules": ["line"]},
    "lora": {"targets": ["*"], "rank": 4},
    "limit-examples": {"num_examples": 12},
    "cnn": {"widths": [4, 4], "norm": "group"},
    "notify": {"command": ["true"]},
    "worst-images": {"split": "train"},
    "tensorboard": {"at": "events"},
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


def signs(*shape: int) -> DataSource:
    """Return targets 1 and -1, of a shape."""
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(inputs, inputs.sum(1).sign().reshape(-1, *shape)), in_features=3, out_features=1)


def answers() -> DataSource:
    """Return targets 0 and 1, ``[1]``."""
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(inputs, (inputs.sum(1, keepdim=True) > 0).float()), in_features=3, out_features=1)


def labels() -> DataSource:
    """Return one or two of three labels for each example, int64 ``[3]``, followed by -1."""
    first = torch.arange(24) % 3
    second = torch.where(torch.arange(24) % 2 == 0, (first + 1) % 3, -1)
    targets = torch.stack([first, second, torch.full((24,), -1)], dim=1)
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(inputs, targets), in_features=3, out_features=3)


def words() -> DataSource:
    """Return sequences of one to three labels, int64 ``[3]``, padded with 0."""
    targets = torch.tensor([[1, 2, 1], [2, 1, 0], [1, 0, 0]]).repeat(8, 1)
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(inputs, targets), in_features=3, out_features=3)


def tokens() -> DataSource:
    """Return sequences of three of six tokens, which follow each other, and the token after each."""
    first = torch.arange(24)[:, None] + torch.arange(4)
    dataset = TensorDataset(first[:, :-1] % 6, first[:, 1:] % 6)
    kept = {"context": 3, "tokenizer": {"kind": "characters", "alphabet": "abcd"}}
    return DataSource(dataset, dataset, out_features=6, task="classification", kept=kept)


def images() -> DataSource:
    """Return three classes of random images, which a model of transformers takes as they are."""
    images = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return DataSource(TensorDataset(images, torch.arange(24) % 3), out_features=3, task="classification")


def sentences() -> DataSource:
    """Return real sentences as tokens."""
    return Texts(FIXTURES / "sentences" / "sentences.csv", target="source", buckets=100).build_data()


class Ended(nn.Module):
    """A linear layer with an end that makes the predictions of another form."""

    def __init__(self, num_outputs: int, end: Callable[[Any], Any]) -> None:
        super().__init__()
        self.line = nn.Linear(3, num_outputs)
        self.end = end

    def forward(self, inputs: Tensor) -> Any:
        return self.end(self.line(inputs))


class Named(torch.utils.data.Dataset[Any]):
    """Inputs by name, which a model gets together with the target."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        inputs = torch.randn(3, generator=torch.Generator().manual_seed(index))
        return {"inputs": inputs}, inputs.sum(0, keepdim=True)


class OwnLoss(nn.Module):
    """A linear layer that computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, inputs: Any, labels: Tensor | None = None) -> Any:
        logits = self.line(inputs)
        return {"logits": logits, "loss": None if labels is None else nn.functional.mse_loss(logits, labels)}


def times(outputs: Tensor) -> Tensor:
    return outputs.reshape(-1, 8, 3).log_softmax(2)


DATA: dict[str, Callable[[], DataSource]] = {
    "soft-margin": lambda: signs(1),
    "hinge-embedding": lambda: signs(1),
    "margin-ranking": lambda: signs(1),
    **dict.fromkeys(("bce", "kl-div"), answers),
    "cosine-embedding": signs,
    "multi-label-margin": labels,
    "ctc": words,
    "model-loss": lambda: DataSource(Named(), Named(), in_features=3, out_features=1),
    **dict.fromkeys(("transformers", "cnn", "worst-images"), images),
    **dict.fromkeys(("gpt", "samples"), tokens),
    "bag-of-tokens": sentences,
}
MODELS: dict[str, Callable[[DataSource], nn.Module]] = {
    "bce": lambda data: Ended(1, torch.sigmoid),
    "ctc": lambda data: Ended(24, times),
    "model-loss": lambda data: OwnLoss(),
    "cosine-embedding": lambda data: Ended(6, lambda outputs: outputs.split(3, dim=1)),
    "margin-ranking": lambda data: Ended(2, lambda outputs: outputs.split(1, dim=1)),
    "triplet-margin": lambda data: Ended(9, lambda outputs: outputs.split(3, dim=1)),
    "gaussian-nll": lambda data: Ended(2, lambda outputs: (outputs[:, :1], outputs[:, 1:].exp())),
}
"""Models for losses that take other predictions than ``[B, O]``."""
NEEDED = {"hugging-face": "datasets", "lora": "peft", "notebook": "IPython", "tensorboard": "tensorboard"}
NEEDED |= {"transformers": "transformers"}
NEEDED |= dict.fromkeys(("schedule-free-sgd", "schedule-free-adamw", "schedule-free-radam"), "schedulefree")
"""Optional packages, by the plugins that need them."""
EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "texts": {"examples_are_alike": "texts have different lengths, and gather pads them batch by batch"},
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


ELSEWHERE = [
    ("callback", "checkpoint"),
    ("data", "from-arrays"),
    ("data", "images"),
    ("callback", "init-from"),
    ("loss", "transformers"),
    ("callback", "prune"),
    *(("callback", name) for name in ("mlflow", "trackio", "wandb")),
]
"""Plugins that are checked below, that have no meaning without another plugin, or whose hooks are tensorboard's."""


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
        data=DATA[entry.name]() if entry.name in DATA else None,
        model=MODELS.get(entry.name),
        options=OPTIONS.get(entry.name, {}),
        expected_failures=EXPECTED_FAILURES.get(entry.name, {}),
    )
    assert len(report.ran) > len(report.skipped)


def test_the_callback_init_from_meets_the_contract_of_callbacks(tmp_path: Path) -> None:
    save_file({"line.bias": torch.tensor([0.5])}, tmp_path / "net.safetensors")
    options = {"path": str(tmp_path / "net.safetensors"), "take": ["line.bias"]}
    changes = {"changes_no_result": "other initial weights give another result, on purpose"}
    check_plugin("callback", "init-from", options=options, expected_failures=changes)


def test_the_data_source_of_given_arrays_meets_the_contract_of_data() -> None:
    inputs = np.random.default_rng(0).standard_normal((30, 3))
    data = from_arrays(inputs, inputs.sum(axis=1), validation=0.2, test=0.2)
    report = check_plugin("data", data, standardize=True)
    assert len(report.ran) > len(report.skipped)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_data_source_images_meets_the_contract_of_data(tmp_path: Path, in_memory: bool) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra images is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    for number, each in enumerate(pixels):
        (tmp_path / f"class {number % 2}").mkdir(exist_ok=True)
        image.fromarray(each).save(tmp_path / f"class {number % 2}" / f"{number}.png")
    options = {"path": str(tmp_path), "split": [0.6, 0.2, 0.2], "in_memory": in_memory}
    report = check_plugin("data", "images", options=options)
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
