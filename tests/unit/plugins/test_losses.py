"""The losses of torch by name: options, values against torch, weights of classes."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import Catalog, ConfigError, ContractError, DataError, DataSource, HooklineError, Run, load_config, resume
from hookline.config import Entry
from hookline.config.plugins.plugin import load_plugin
from hookline.engine.loop.weighted_mean import weight_of
from hookline.engine.reading.batch import count_examples
from hookline.trained import evaluate_run

MODULES = [f"hookline_plugins.losses.{name}" for name in ("binary", "classification", "embeddings")]
MODULES += [f"hookline_plugins.losses.{name}" for name in ("regression", "sequences")]
ENTRIES = {
    entry.name: entry
    for entry in Catalog.installed().of_kind("loss")
    if entry.value.partition(":")[0] in MODULES  # other losses are those of a model
}
NOT_BY_NAME = {
    "AdaptiveLogSoftmaxWithLoss": "it contains the last layer of the model",
    "LinearCrossEntropyLoss": "it contains the last layer of the model",
    "TripletMarginWithDistanceLoss": "it takes a function",
}
NOT_OPTIONS = {"size_average", "reduce", "reduction"}
"""Arguments of torch's losses that sum or average otherwise, mostly deprecated."""
MISSING = {("BCELoss", "weight"), ("BCEWithLogitsLoss", "weight")}
"""Weights of the examples of one batch."""


def title(entry: Entry) -> str:
    return f"{load_plugin(entry).target.__name__.removesuffix('Loss')}Loss"


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SIGNS = torch.tensor([1.0, -1.0]).repeat(4)
LABELS = torch.tensor([[2, 0, -1], [1, -1, -1]]).repeat(4, 1)
CLASSES = torch.arange(8) % 3
ZERO_ONE = (torch.arange(24).reshape(8, 3) % 5 < 2).float()
PROBABILITIES = rand(8, 3, seed=1).softmax(1)
LOGS = rand(8, 3).log_softmax(1)
FRAMES = rand(8, 5, 3).log_softmax(2)
WORDS = torch.tensor([[1, 2], [2, 0]]).repeat(4, 1)
SHORT, COUNTS = torch.full((8,), 4), torch.tensor([2, 1]).repeat(4)

CASES: dict[str, list[tuple[dict[str, Any], Any, Any]]] = {
    "mse": [({}, rand(8, 3), ZERO_ONE)],
    "l1": [({}, rand(8, 3), ZERO_ONE)],
    "huber": [({"delta": 0.3}, rand(8, 3), ZERO_ONE)],
    "smooth-l1": [({"beta": 0.3}, rand(8, 3), ZERO_ONE), ({"beta": 0.0}, rand(8, 3), ZERO_ONE)],
    "poisson-nll": [
        ({}, rand(8, 3), ZERO_ONE),
        ({"log_input": False, "full": True, "eps": 1e-3}, rand(8, 3).exp(), 3 * ZERO_ONE),
    ],
    "cross-entropy": [
        ({"label_smoothing": 0.1, "ignore_index": 1, "weight": (1.0, 2.0, 5.0)}, rand(8, 3), CLASSES),
        ({}, rand(8, 3), PROBABILITIES),
    ],
    "nll": [({"ignore_index": 1, "weight": (1.0, 2.0, 5.0)}, LOGS, CLASSES), ({}, LOGS, CLASSES)],
    "kl-div": [
        ({}, LOGS, PROBABILITIES),
        ({"log_target": True}, LOGS, PROBABILITIES.log()),
    ],
    "multi-margin": [({"p": 2, "margin": 0.7, "weight": (1.0, 2.0, 5.0)}, rand(8, 3), CLASSES)],
    "bce-with-logits": [({"pos_weight": (1.0, 2.0, 5.0)}, rand(8, 3), ZERO_ONE)],
    "bce": [({}, rand(8, 3).sigmoid(), ZERO_ONE)],
    "soft-margin": [({}, rand(8, 1), SIGNS[:, None])],
    "multi-label-soft-margin": [({"weight": (1.0, 2.0, 5.0)}, rand(8, 3), ZERO_ONE)],
    "multi-label-margin": [({}, rand(8, 3), LABELS)],
    "hinge-embedding": [({"margin": 0.5}, rand(8, 1), SIGNS[:, None])],
    "cosine-embedding": [({"margin": 0.2}, (rand(8, 3), rand(8, 3, seed=1)), SIGNS)],
    "margin-ranking": [({"margin": 0.2}, (rand(8, 1), rand(8, 1, seed=1)), SIGNS[:, None])],
    "triplet-margin": [
        ({"margin": 0.5, "p": 1.0, "eps": 1e-3, "swap": True}, tuple(rand(8, 3, seed=n) for n in range(3)), CLASSES)
    ],
    "gaussian-nll": [({"full": True, "eps": 0.4}, (rand(8, 3), rand(8, 3, seed=1).abs()), ZERO_ONE)],
    "ctc": [
        ({}, FRAMES, WORDS),
        ({"blank": 2, "zero_infinity": True}, (FRAMES, SHORT), (WORDS % 2, COUNTS)),
    ],
}
"""Options, a prediction and a target of 8 examples for each loss."""


def of_torch(name: str, options: dict[str, Any], prediction: Any, target: Any) -> Any:
    """Call torch's loss with these options, in its own order of arguments."""
    tensors = {key: torch.tensor(value) for key, value in options.items() if key in ("weight", "pos_weight")}
    reduction = {"reduction": "batchmean"} if name == "kl-div" else {}
    loss = getattr(nn, title(ENTRIES[name]))(**{**reduction, **options, **tensors})
    if name == "triplet-margin":
        return loss(*prediction)
    if name == "gaussian-nll":
        return loss(prediction[0], target, prediction[1])
    if name == "ctc":
        frames, lengths = prediction if isinstance(prediction, tuple) else (prediction, torch.full((8,), 5))
        words, counts = target if isinstance(target, tuple) else (target, COUNTS)
        return loss(frames.transpose(0, 1), words, lengths, counts)
    return loss(*prediction, target) if isinstance(prediction, tuple) else loss(prediction, target)


@functools.cache
def a_run() -> Run:
    return Run(load_config({}))


def built(name: str, options: dict[str, Any], data: DataSource) -> Any:
    """Return the loss that the plugin builds, without trying it on data."""
    return load_plugin(ENTRIES[name]).target(**options).build_loss(**inputs_of(ENTRIES[name], data))


def inputs_of(entry: Entry, data: DataSource) -> dict[str, Any]:
    wanted = inspect.signature(load_plugin(entry).target.build_loss).parameters
    given: dict[str, Any] = {"run": a_run(), "data": data}
    return {name: value for name, value in given.items() if name in wanted}


def source(targets: Tensor, num_outputs: int | None = 3, **facts: Any) -> DataSource:
    inputs = torch.zeros(len(targets), 2)
    return DataSource(TensorDataset(inputs, targets), in_features=2, out_features=num_outputs, **facts)


def part(value: Any, where: slice) -> Any:
    return tuple(each[where] for each in value) if isinstance(value, tuple) else value[where]


# ---- names, options, values ------------------------------------------------------------------------------------------


def test_every_loss_of_torch_has_a_name() -> None:
    of_torch = {name for name in vars(nn) if name.endswith("Loss")} - set(NOT_BY_NAME)
    assert {title(entry) for entry in ENTRIES.values()} == of_torch
    assert CASES.keys() == ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_the_options_are_the_arguments_of_torch_with_its_defaults(name: str) -> None:
    cls = title(ENTRIES[name])
    theirs = {key: p.default for key, p in inspect.signature(getattr(nn, cls)).parameters.items()}
    ours = {option.name: option.default for option in load_plugin(ENTRIES[name]).options}
    left_out = NOT_OPTIONS - ours.keys() | {argument for owner, argument in MISSING if owner == cls}
    assert ours.keys() == theirs.keys() - left_out
    for option, default in ours.items():
        assert (None if default in ((), []) else default) == theirs[option]


@pytest.mark.parametrize(
    ("name", "case"), [(n, c) for n, cases in CASES.items() for c in cases], ids=lambda v: v if type(v) is str else ""
)
def test_the_value_and_the_gradients_are_those_of_torch(name: str, case: tuple[dict[str, Any], Any, Any]) -> None:
    options, prediction, target = case
    shaped = target[0] if isinstance(target, tuple) else target
    loss = built(name, options, source(shaped))
    results: list[Any] = []
    for function in (loss, lambda p, t: of_torch(name, options, p, t)):
        leaves = [each.detach().clone() for each in (prediction if isinstance(prediction, tuple) else (prediction,))]
        floating = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
        value = function(tuple(leaves) if isinstance(prediction, tuple) else leaves[0], target)
        results.append((value.detach(), *torch.autograd.grad(value, floating)))
    assert results[0][0].dim() == 0
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_the_mean_of_its_parts_with_the_weight_of_the_loss(name: str) -> None:
    for options, prediction, target in CASES[name]:
        shaped = target[0] if isinstance(target, tuple) else target
        loss = built(name, options, source(shaped))
        weigh: Any = weight_of(loss) or count_examples
        parts = [slice(3), slice(3, None)]
        weights = [float(weigh(part(target, where))) for where in parts]
        values = [float(loss(part(prediction, where), part(target, where))) for where in parts]
        expected = float(np.average(values, weights=weights))
        assert float(loss(prediction, target)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_smooth_l1_is_the_huber_loss_over_beta() -> None:
    prediction, target = rand(8, 3), ZERO_ONE
    smooth = built("smooth-l1", {"beta": 0.4}, source(target))(prediction, target)
    assert float(smooth) == pytest.approx(
        float(built("huber", {"delta": 0.4}, source(target))(prediction, target)) / 0.4
    )


@pytest.mark.parametrize("name", ["poisson-nll", "kl-div", "soft-margin", "multi-label-soft-margin", "hinge-embedding"])
def test_a_loss_that_would_broadcast_is_refused(name: str) -> None:
    targets = ZERO_ONE[:, 0] if name == "kl-div" else SIGNS
    data = DataSource(TensorDataset(rand(8, 2), targets), in_features=2, out_features=1)
    with pytest.raises(ContractError, match=r"\[8, 1\]"):
        Run(load_config({"loss": name}, plugins={"data": data}))


@pytest.mark.parametrize(
    ("name", "prediction", "words"),
    [
        ("triplet-margin", rand(3, 3), r"needs 3 tensors as its prediction, a tuple \(anchor, positive, negative\)"),
        ("cosine-embedding", rand(2, 3), r"needs 2 tensors as its prediction, .* but got a tensor \[2, 3\]"),
        ("gaussian-nll", (rand(8, 3), rand(8, 1)), r"the shapes differ: mean \[8, 3\], variance \[8, 1\]"),
        ("margin-ranking", (rand(8, 1), rand(8, 1)), r"the shapes differ: .*target \[8\]"),
    ],
)
def test_predictions_of_another_form_are_refused(name: str, prediction: Any, words: str) -> None:
    loss = built(name, {}, source(SIGNS))
    with pytest.raises(ValueError, match=f"{name}.*{words}"):
        loss(prediction, SIGNS)


@pytest.mark.parametrize("name", ["soft-margin", "hinge-embedding", "cosine-embedding", "margin-ranking"])
def test_targets_of_0_are_refused_where_1_and_minus_1_are_meant(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} needs targets 1 and -1, but the train split has 0") as caught:
        built(name, {}, source(ZERO_ONE))
    assert "2 * target - 1" in str(caught.value.hint)


# ---- weights of classes ----------------------------------------------------------------------------------------------

RARE = torch.tensor([0] * 12 + [1] * 6 + [2] * 2)
BALANCED = [20 / (3 * 12), 20 / (3 * 6), 20 / (3 * 2)]
"""N / (C N_c), by hand."""


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return len(RARE)

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(2), RARE[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(2), torch.tensor(0))] * 8)


def classes_run(loss: dict[str, Any], data: DataSource | None = None, **train: Any) -> Run:
    data = data or source(RARE)
    model = {} if data.out_features else {"model": nn.Linear(2, 3)}
    return Run(load_config({"loss": loss, "train": train}, plugins={"data": data, **model}))


@pytest.mark.parametrize("data", [source(RARE), DataSource(Items(), in_features=2, out_features=3)])
@pytest.mark.parametrize("name", ["cross-entropy", "nll", "multi-margin"])
def test_balanced_weights_are_those_of_scikit_learn(name: str, data: DataSource) -> None:
    loss: Any = classes_run({"use": name, "weight": "balanced"}, data).loss
    assert loss.weight.tolist() == pytest.approx(BALANCED)


def test_targets_that_do_not_count_are_not_counted() -> None:
    ignored = torch.cat([RARE, torch.full((30,), 7)])
    loss: Any = classes_run({"use": "cross-entropy", "weight": "balanced", "ignore_index": 7}, source(ignored)).loss
    assert loss.weight.tolist() == pytest.approx(BALANCED)


def test_the_factor_on_ones_is_the_number_of_zeros_for_each() -> None:
    targets = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 3 + [[0.0, 0.0]] * 5)
    loss: Any = classes_run({"use": "bce-with-logits", "pos_weight": "balanced"}, source(targets, 2)).loss
    assert loss.pos_weight.tolist() == pytest.approx([8 / 2, 7 / 3])
    masks = targets.reshape(5, 1, 2, 2)  # one output, 5 ones of 20
    data = DataSource(TensorDataset(torch.zeros(5, 1, 2, 2), masks))
    plugins = {"data": data, "model": nn.Conv2d(1, 1, 1)}
    run = Run(load_config({"loss": {"use": "bce-with-logits", "pos_weight": "balanced"}}, plugins=plugins))
    assert run.loss.pos_weight.tolist() == [[[15 / 5]]]  # type: ignore[attr-defined] # it is torch's


def test_an_epoch_in_micro_batches_uses_the_balanced_weights() -> None:
    inputs = rand(20, 2)
    data = DataSource(TensorDataset(inputs, RARE), in_features=2, out_features=3)
    run = classes_run(
        {"use": "cross-entropy", "weight": "balanced"}, data, batch_size="all", micro_batch_size=7, epochs=1
    )
    weight, bias = (parameter.detach().clone().requires_grad_() for parameter in run.model.parameters())
    each = -(inputs @ weight.T + bias).log_softmax(1)[torch.arange(20), RARE]
    of_example = torch.tensor(BALANCED)[RARE]
    gradient = torch.autograd.grad((of_example * each).sum() / of_example.sum(), weight)[0]
    run.fit()
    torch.testing.assert_close(run.model.weight, weight - 0.03 * gradient)


@pytest.mark.parametrize(
    ("loss", "data", "words"),
    [
        ({"weight": "balanced"}, source(RARE, 4), "have none of class 3"),
        ({"weight": "balanced"}, source(RARE, 4, class_names=tuple("abcd")), "have none of class 'd'"),
        ({"weight": "balanced"}, source(PROBABILITIES), "needs targets that are class indices.*they are float32"),
        ({"weight": "balanced"}, source(RARE + 1), "class indices, int64 from 0 to 2, but one is 3"),
        ({"weight": "balanced"}, source(RARE, None), "needs the number of classes"),
        ({"weight": "balanced"}, DataSource(Stream(), in_features=2, out_features=3), "they are a stream"),
        ({"weight": [1.0, 2.0]}, source(RARE), "loss.weight has 2 numbers, but the data have 3 classes"),
        (
            {"use": "bce-with-logits", "pos_weight": "balanced"},
            source(PROBABILITIES),
            "needs targets of 0 and 1, but one",
        ),
        ({"use": "bce-with-logits", "pos_weight": "balanced"}, source(ZERO_ONE * 0), "have no 1 in output 0"),
        (
            {"use": "bce-with-logits", "pos_weight": [1.0, 2.0]},
            source(ZERO_ONE),
            "2 numbers, but the data have 3 outputs",
        ),
    ],
)
def test_weights_that_cannot_be_computed_are_refused(loss: dict[str, Any], data: DataSource, words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as caught:
        classes_run({"use": "cross-entropy", **loss}, data)
    assert isinstance(caught.value, HooklineError)
    assert caught.value.hint


@pytest.mark.parametrize("every_steps", [0, 1], ids=["before a checkpoint", "after one"])
def test_the_weights_are_those_of_the_training_in_an_evaluation_and_a_resumed_run(
    every_steps: int, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = np.asarray(rand(20, 2))
    np.savez("data.npz", inputs=inputs, targets=RARE.numpy())
    config = {
        "data": {"use": "arrays", "path": "data.npz"},
        "loss": {"use": "cross-entropy", "weight": "balanced"},
        "callbacks": {"run-folder": {}, "checkpoint": {"every_steps": every_steps}},
        "train": {"epochs": 2, "batch_size": 4},
    }
    run: Any = Run(load_config(config))
    for step in run.steps():
        if step.step == 3:
            break
    resumed: Any = resume("1")
    assert resumed.step == 3 * every_steps
    resumed.fit()
    assert resumed.loss.weight.tolist() == pytest.approx(BALANCED)
    few = np.array([0, 0, 1, 1, 2])  # balanced otherwise
    np.savez("few.npz", inputs=inputs[:5], targets=few)
    logits = resumed.model(torch.from_numpy(inputs[:5])).detach()
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(few), torch.tensor(BALANCED))
    found = evaluate_run("1", {"data.path": "few.npz"}, splits=["train"])
    assert found.metrics["train/loss"] == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]),
        ("balanced", [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]),
        ("balanced", [], None),
        ([1.0, 2.0, 3.0], "balanced", pytest.approx(BALANCED)),
        ([], "balanced", pytest.approx(BALANCED)),
    ],
    ids=str,
)
def test_weights_that_are_changed_when_a_run_resumes_are_the_new_ones(before: Any, after: Any, expected: Any) -> None:
    first = classes_run({"use": "cross-entropy", "weight": before})
    second: Any = classes_run({"use": "cross-entropy", "weight": after})
    second.load_state_dict(first.state_dict())
    assert (None if second.loss.weight is None else second.loss.weight.tolist()) == expected


# ---- predictions of several tensors in a run -------------------------------------------------------------------------


class Several(nn.Module):
    """A model that returns a tuple of ``num`` tensors ``[B, width]``."""

    def __init__(self, num: int, width: int) -> None:
        super().__init__()
        self.lines = nn.ModuleList(nn.Linear(2, width) for _ in range(num))

    def forward(self, inputs: Tensor) -> Any:
        return tuple(line(inputs) for line in self.lines)


TUPLES: dict[str, tuple[int, int, Tensor]] = {
    "cosine-embedding": (2, 3, SIGNS),
    "margin-ranking": (2, 1, SIGNS[:, None]),
    "triplet-margin": (3, 3, CLASSES),
}


@pytest.mark.parametrize("name", TUPLES)
def test_a_run_trains_and_evaluates_a_model_that_returns_a_tuple(name: str) -> None:
    num, width, targets = TUPLES[name]
    data = DataSource(TensorDataset(rand(8, 2), targets), in_features=2)
    runs = []
    for size in (0, 3):
        train = {"batch_size": "all", "micro_batch_size": size, "epochs": 2, "eval_batch_size": 3, "shuffle": False}
        config = {"loss": name, "train": {**train, "dtype": "float64"}}
        runs.append(Run(load_config(config, plugins={"data": data, "model": lambda: Several(num, width)})))
    whole, parts = runs
    inputs = rand(8, 2).double()
    before = whole.model(inputs)
    target = targets.double() if targets.is_floating_point() else targets
    expected = of_torch(name, {}, tuple(each.detach() for each in before), target)
    assert whole.evaluate()["train/loss"] == pytest.approx(float(expected))
    whole.fit()
    parts.fit()
    torch.testing.assert_close(parts.model.state_dict(), whole.model.state_dict())
    assert whole.history[-1]["train/loss"] < float(expected)
