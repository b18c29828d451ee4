"""Callback ``init-from``: initial weights from a file or a run, only where a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hookline import CheckpointError, ConfigError, HooklineError, Run, load_config, resume
from hookline.trained import evaluate_run, load_trained


class Net(nn.Module):
    """An encoder and a head; the data have two inputs and one output."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.encoder(inputs))


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight

    def forward(self, inputs: Tensor) -> Any:
        return self.two(self.one(inputs)).sum(1, keepdim=True)


def other_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return weights of the form of a model's, all different, in float64."""
    return {
        name: (torch.arange(value.numel()).reshape(value.shape) / 10 + number / 7).to(
            torch.float64 if value.is_floating_point() else value.dtype
        )
        for number, (name, value) in enumerate(model.state_dict().items(), 1)
    }


WEIGHTS = other_weights(Net())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_file(WEIGHTS, "net.safetensors")
    return tmp_path


def make_run(
    options: dict[str, Any], *, model: Any = Net, callbacks: dict[str, Any] | None = None, **train: Any
) -> Run:
    config = {"train": {"epochs": 1, **train}, "callbacks": {"init-from": options, **(callbacks or {})}}
    return Run(load_config(config, plugins={"model": model}))


def state(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.unwrapped_model.state_dict().items()}


def assert_loaded(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        assert torch.equal(found[name], value.to(found[name].dtype)), name


def rows(run: Run) -> dict[Any, Any]:
    (table,) = (rows for title, rows in run.summary.items() if title.startswith("initial weights: "))
    return {row["weights"]: row["number"] for row in table}


# ---- files -----------------------------------------------------------------------------------------------------------


def test_the_run_begins_with_the_weights_of_the_file(folder: Path) -> None:
    run = make_run({"path": "net.safetensors"})
    assert_loaded(state(run), WEIGHTS)
    assert rows(run) == {"loaded": 9}
    (title,) = run.summary
    assert title.startswith("initial weights: net.safetensors, sha256 ")


def test_the_first_step_is_that_of_a_model_with_these_weights(folder: Path) -> None:
    run = make_run({"path": "net.safetensors"}, dtype="float64", batch_size="all", max_steps=1)
    model = Net().double()
    model.load_state_dict(WEIGHTS)
    inputs, targets = run.data.train[:]
    nn.functional.mse_loss(model(inputs.double()), targets.double()).backward()  # type: ignore[no-untyped-call] # torch leaves it so
    expected = {name: p.detach() - 0.03 * p.grad for name, p in model.named_parameters() if p.grad is not None}
    run.fit()
    torch.testing.assert_close({name: state(run)[name] for name in expected}, expected)


def test_names_are_chosen_by_patterns_and_renamed(folder: Path) -> None:
    renamed = {name.replace("encoder.", "bert.body."): value for name, value in WEIGHTS.items()}
    save_file(renamed, "bert.safetensors")
    options = {"path": "bert.safetensors", "take": ["bert.*"], "rename": {"bert.body.": "encoder.", "bert.": "no."}}
    fresh = Run(load_config({}, plugins={"model": Net}))
    run = make_run(options)
    encoder = {name: value for name, value in WEIGHTS.items() if name.startswith("encoder.")}
    assert_loaded(state(run), encoder)
    assert_loaded(state(run), {name: state(fresh)[name] for name in ("head.weight", "head.bias")})
    assert rows(run) == {"loaded": 7, "missing, as initialized": 2}


def test_a_weight_with_two_names_may_be_in_the_file_once(folder: Path) -> None:
    values = other_weights(Tied())
    del values["two.weight"]
    save_file(values, "tied.safetensors")
    run = make_run({"path": "tied.safetensors"}, model=Tied)
    assert_loaded(state(run), {**values, "two.weight": values["one.weight"]})


MISFITS: dict[str, tuple[dict[str, Tensor], list[str], dict[str, int]]] = {
    "missing": (
        {name: value for name, value in WEIGHTS.items() if name != "head.bias"},
        ["'head.bias' of the model is missing"],
        {"loaded": 8, "missing, as initialized": 1},
    ),
    "unknown": (
        {**WEIGHTS, "head.scale": torch.ones(1)},
        ["'head.scale' is not in the model"],
        {"loaded": 9, "not in the model": 1},
    ),
    "another shape": (
        {**WEIGHTS, "head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)},
        ["'head.bias' is [2], but in the model [1]", "'head.weight' is [2, 3], but in the model [1, 3]"],
        {"loaded": 7, "other shape, not loaded": 2},
    ),
    "integers": (
        {**WEIGHTS, "head.bias": torch.ones(1, dtype=torch.int64)},
        ["'head.bias' is integers [1], but in the model [1]"],
        {"loaded": 8, "other shape, not loaded": 1},
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_all_named_or_skipped_on_request(case: str, folder: Path) -> None:
    values, faults, report = MISFITS[case]
    save_file(values, "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors, sha256 .* does not fit the model") as caught:
        make_run({"path": "other.safetensors"})
    assert sorted(fault.message for fault in caught.value.faults) == faults
    run = make_run({"path": "other.safetensors", "misfits": "skip"})
    assert rows(run) == report
    assert [text for text in run.warnings if "weights do not fit between other.safetensors" in text]


def test_weights_of_which_none_fits_are_refused_in_any_case(folder: Path) -> None:
    save_file({"a": torch.ones(1)}, "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        make_run({"path": "other.safetensors", "misfits": "skip"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"take": ["encodr.*"]}, r"'encodr\.\*' matches no weight"),
        ({"rename": {"bert.": ""}}, "no weight that is taken begins with 'bert.'"),
        ({"rename": {"head.bias": "head.weight"}}, "two weights get the name 'head.weight'"),
    ],
)
def test_patterns_that_do_not_fit_the_file_are_refused(options: dict[str, Any], words: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        make_run({"path": "net.safetensors", **options})


@pytest.mark.parametrize(
    "options", [{}, {"path": "a.safetensors", "run": 1}, {"path": "a.safetensors", "checkpoint": "b"}]
)
def test_weights_come_from_one_place(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_run(options)


def test_a_file_that_cannot_be_read_is_refused_with_the_remedy(folder: Path) -> None:
    torch.save({"weight": torch.ones(1)}, "net.pt")
    Path("broken.safetensors").write_bytes(b"\xff" * 100)
    for name, hint in (
        ("net.pt", "convert it once"),
        ("broken.safetensors", "relative"),
        ("no.safetensors", "relative"),
    ):
        with pytest.raises(CheckpointError, match=f"the weights in .*{name} cannot be read") as caught:
            make_run({"path": name})
        assert hint in str(caught.value.hint)


# ---- runs, and what happens later ------------------------------------------------------------------------------------

NOT_SAVED = {"callbacks.run-folder": "off", "callbacks.checkpoint": "off"}
SAVED = {"run-folder": {}, "checkpoint": {"every_steps": 7}}


def mlp_config(**callbacks: Any) -> dict[str, Any]:
    model = {"use": "mlp", "hidden": [3]}
    return {"model": model, "train": {"epochs": 2, "batch_size": 100}, "callbacks": {**SAVED, **callbacks}}


def test_a_run_begins_with_the_weights_of_another_and_needs_them_only_then(folder: Path) -> None:
    first = Run(load_config(mlp_config()))
    first.fit()
    uninterrupted = Run(load_config(mlp_config(**{"init-from": {"run": 1}}), NOT_SAVED))
    assert_loaded(state(uninterrupted), state(first))
    uninterrupted.fit()

    second = Run(load_config(mlp_config(**{"init-from": {"run": 1}})))
    assert any(title.startswith("initial weights: 0001-") for title in second.summary)
    for step in second.steps():
        if step.step == 16:
            break
    Path("runs/0001-synthetic-linear-mlp").rename("gone")
    resumed = resume("2")
    assert resumed.step == 14
    assert any(title.startswith("initial weights: 0001-") for title in resumed.summary)
    resumed.fit()
    assert_loaded(state(resumed), state(uninterrupted))
    measured = evaluate_run("2").metrics["train/loss"]
    assert measured == pytest.approx(resumed.history[-1]["train/loss"])
    assert_loaded(dict(load_trained("2").model.state_dict()), state(uninterrupted))


def test_a_run_that_did_not_reach_a_checkpoint_begins_again_with_the_weights(folder: Path) -> None:
    Run(load_config(mlp_config())).fit()
    second = Run(load_config(mlp_config(**{"init-from": {"run": 1}})))
    begun = state(second)
    for _ in second.steps():
        break
    assert_loaded(state(resume("2")), begun)


def test_frozen_weights_and_averages_are_those_that_were_loaded(folder: Path) -> None:
    callbacks = {
        "averaging": {"decay": 0.5},
        "freeze": {"parameters": ["encoder.*"]},
        "init-from": {"path": "net.safetensors"},
    }
    config = {"train": {"epochs": 1, "max_steps": 3}, "callbacks": callbacks}
    averaged = Run(load_config(config, plugins={"model": Net}))
    averaged.fit()
    config["callbacks"] = {**callbacks, "averaging": {"decay": 0.5, "at_end": "raw"}}
    run = Run(load_config(config, plugins={"model": Net}))
    head = run.unwrapped_model.get_parameter("head.weight")
    heads = [head.detach().clone() for _ in run.steps()]
    assert_loaded(state(run), {name: WEIGHTS[name] for name in ("encoder.0.weight", "encoder.0.bias")})
    expected = 0.5 * (0.5 * heads[0] + 0.5 * heads[1]) + 0.5 * heads[2]
    torch.testing.assert_close(averaged.unwrapped_model.get_parameter("head.weight").detach(), expected)


def test_the_run_must_exist(folder: Path) -> None:
    with pytest.raises(HooklineError, match="there is no run in runs"):
        make_run({"run": "last"})
