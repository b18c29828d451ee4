"""``hookline.from_arrays``: arrays and frames of a program as data, and predictions for them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hookline
from hookline import DataError, DataSource, PluginError, Run, TrainingError, from_arrays, hookimpl, load_config
from hookline.runs import folder_of
from hookline.trained import load_trained

NUM = 100
GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.standard_normal((NUM, 3)).astype(np.float32)
TARGETS = INPUTS @ np.array([1.0, 2.0, 3.0], np.float32) + 4
NAMES = ("a", "b", "c")
LABELS = np.array(["low"] * 60 + ["middle"] * 30 + ["top"] * 10)
CLASSES = {"loss": "cross-entropy"}
KEEP: dict[str, Any] = {"callbacks": {"run-folder": {}, "checkpoint": {}}}


def run_of(data: Any, config: Mapping[str, Any] | None = None, **overrides: Any) -> Run:
    return Run(load_config(config or {}, overrides, plugins={"data": data}))


def source(*arrays: Any, seed: int = 0, **options: Any) -> DataSource:
    """Return the data source without checking a batch."""
    config = load_config({"train": {"seed": seed}}, plugins={"data": from_arrays(*arrays, **options)})
    return Run(
        config, build=lambda site: setattr(site.parts, "data", site.host.first_result("build_data", run=site.run))
    ).data


def tensors(data: DataSource, split: str = "train") -> tuple[torch.Tensor, ...]:
    dataset = getattr(data, split)
    assert type(dataset) is TensorDataset
    return dataset.tensors


def faults_of(*arrays: Any, **options: Any) -> list[str]:
    with pytest.raises(DataError, match="the given data cannot be used") as caught:
        source(*arrays, **options)
    return [fault.message for fault in caught.value.faults]


# ---- kinds of arrays and frames -------------------------------------------------------------------------------------


def as_pandas(array: Any) -> Any:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.Series(array, name="y") if array.ndim == 1 else pandas.DataFrame(array, columns=list(NAMES))


def as_polars(array: Any) -> Any:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.Series("y", array) if array.ndim == 1 else polars.DataFrame(array, schema=list(NAMES))


def as_arrow(array: Any) -> Any:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    if array.ndim == 1:
        return arrow.chunked_array([array[:7], array[7:]])
    return arrow.table({name: array[:, number] for number, name in enumerate(NAMES)})


def as_mapping(array: Any) -> Any:
    return array.tolist() if array.ndim == 1 else {name: array[:, number] for number, name in enumerate(NAMES)}


def as_records(array: Any) -> Any:
    if array.ndim == 1:
        return array
    return np.array([tuple(row) for row in array], dtype=[(name, np.float32) for name in NAMES])


FRAMES: list[Callable[[Any], Any]] = [as_pandas, as_polars, as_arrow, as_mapping, as_records]
ARRAYS: list[Callable[[Any], Any]] = [np.asarray, torch.as_tensor, lambda array: array.tolist(), np.asfortranarray]


@pytest.mark.parametrize("given", [*FRAMES, *ARRAYS])
def test_arrays_and_frames_of_every_kind_give_the_same_data(given: Callable[[Any], Any]) -> None:
    data = source(given(INPUTS), given(TARGETS))
    inputs, targets = tensors(data)
    assert torch.equal(inputs.float(), torch.tensor(INPUTS))
    assert torch.equal(targets.float(), torch.tensor(TARGETS)[:, None])
    assert data.feature_names == (NAMES if given in FRAMES else ())
    assert (data.in_features, data.out_features, data.task) == (3, 1, "regression")


def test_an_array_is_shared_and_the_rows_of_splits_are_copies() -> None:
    (shared, _), (copied, _) = tensors(source(INPUTS, TARGETS)), tensors(source(INPUTS, TARGETS, validation=0.5))
    assert np.shares_memory(shared.numpy(), INPUTS)
    assert not np.shares_memory(copied.numpy(), INPUTS)


def test_an_array_that_torch_cannot_share_is_copied() -> None:
    frozen = INPUTS.copy()
    frozen.flags.writeable = False
    for array in (frozen, INPUTS[::-1], INPUTS.astype(">f4"), INPUTS.astype(np.longdouble)):
        assert np.array_equal(tensors(source(array, TARGETS))[0].numpy(), array)


def test_integers_become_floating_point_numbers_unless_they_are_to_stay() -> None:
    whole = np.arange(6).reshape(3, 2)
    assert tensors(source(whole, TARGETS[:3]))[0].dtype == torch.float64
    assert tensors(source(whole, TARGETS[:3], float_inputs=False))[0].dtype == torch.int64


# ---- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "c", "a"], ["a", "b", "c"]),
        (np.array([5, 2, 9, 2]), [2, 5, 9]),
        (np.array([True, False, True, False]), [False, True]),
        (np.array(["b", "a", "b", "a"], dtype=object), ["a", "b"]),
    ],
)
def test_labels_become_class_indices_in_their_order(labels: Any, expected: list[Any]) -> None:
    data = source(INPUTS[:4], labels)
    targets = tensors(data)[1]
    assert targets.dtype == torch.int64
    assert [expected[index] for index in targets] == list(labels)
    assert data.class_names == tuple(map(str, expected))
    assert (data.out_features, data.task) == (len(expected), "classification")


def test_two_labels_are_0_and_1_for_a_binary_task() -> None:
    data = source(INPUTS[:3], ["yes", "no", "yes"], task="binary")
    assert tensors(data)[1].tolist() == [[1.0], [0.0], [1.0]]
    assert (data.out_features, data.class_names, data.task) == (1, ("no", "yes"), "binary")


def test_several_targets_keep_their_names() -> None:
    data = source(INPUTS, {"u": TARGETS, "v": 2 * TARGETS})
    assert (data.out_features, data.target_names) == (2, ("u", "v"))
    assert np.array_equal(tensors(data)[1].numpy(), np.stack([TARGETS, 2 * TARGETS], axis=1))


def test_many_different_integers_are_refused_until_the_task_is_given() -> None:
    amounts = np.arange(200)
    (message,) = faults_of(np.zeros((200, 1)), amounts)
    assert message == "the targets are 200 different integers, which may be numbers or labels"
    assert source(np.zeros((200, 1)), amounts, task="regression").out_features == 1
    assert source(np.zeros((200, 1)), amounts, task="classification").out_features == 200


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once_with_their_places() -> None:
    columns = {"a": [1.0, float("nan"), 3.0, 4.0], "b": ["x", 2, 3, 4], "c": [1, None, None, 4]}
    assert faults_of(columns, [1.0, 2.0, 3.0, float("inf")], validation=(INPUTS, TARGETS[:5])) == [
        "row 1 of column 'a' of the inputs is missing (NaN)",
        "column 'b' of the inputs holds <U21, not numbers",
        "row 1 of column 'c' of the inputs is missing (the first of 2 such rows)",
        "row 3 of the targets is inf",
    ]


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((INPUTS, TARGETS[:9]), {}, "there are 100 inputs but 9 targets"),
        ((INPUTS, TARGETS), {"test": (INPUTS[:4], TARGETS[:3])}, "there are 4 test inputs but 3 test targets"),
        ((INPUTS, TARGETS), {"test": (INPUTS[:4, :2], TARGETS[:4])}, "each of the test inputs has the shape [2], but"),
        ((INPUTS[:0], TARGETS[:0]), {}, "there are no rows"),
        ((INPUTS, LABELS), {"test": (INPUTS[:1], ["none"])}, "row 0 of the test targets is 'none', which no training"),
        ((INPUTS, ["a"] * NUM), {}, "the targets have only one value, ['a']"),
        ((INPUTS[:2], ["a", None]), {}, "row 1 of the targets is missing"),
        ((INPUTS, LABELS), {"task": "binary"}, "the targets must have two different values, but have 3"),
        ((INPUTS[:2], [["a", "b"], ["c", "d"]]), {}, "the targets are labels of shape [2, 2]"),
        ((INPUTS[:2], np.array(["a", 1], dtype=object)), {}, "the targets mix text and numbers, so they have no order"),
        ((INPUTS.astype("M8[s]"), TARGETS), {}, "the inputs holds datetime64[s], not numbers"),
        ((INPUTS + 1j, TARGETS), {}, "the inputs holds complex64, not numbers"),
        ((None, TARGETS), {}, "the inputs are NoneType, not an array or a frame"),
        ((np.ma.masked_equal(INPUTS, INPUTS[3, 1]), TARGETS), {}, "row 3 of the inputs is missing"),
        ((INPUTS[:3], TARGETS[:3]), {"validation": 0.1}, "the validation split is empty: 0.1 of 3 rows"),
        ((INPUTS, LABELS), {"standardize_target": True}, "the targets are labels, which cannot be standardized"),
        ((np.zeros((4, 2, 2)), TARGETS[:4]), {"standardize": True}, "inputs of shape [4, 2, 2] have no columns to"),
    ],
)
def test_a_fault_of_arrays_is_named(arrays: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    (fault,) = faults_of(*arrays, **options)
    assert fault.startswith(message)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (TypeError, {"validaton": 0.2}, "from_arrays has no option 'validaton': did you mean 'validation'"),
        (ValueError, {"validation": 2.0}, "< 1.0"),
        (ValueError, {"validation": 0.5, "test": 0.5}, "leave no rows to train on: 0.5 [+] 0.5"),
        (ValueError, {"validation": (INPUTS,)}, "takes a share of the rows, or .inputs, targets., not 1 arrays"),
        (ValueError, {"task": "binary", "standardize_target": True}, "is for numbers, not for task = 'binary'"),
    ],
)
def test_a_wrong_option_is_refused_in_the_line_that_gives_it(
    error: type[Exception], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_arrays(INPUTS, TARGETS, **options)


def test_a_config_that_names_the_data_source_without_arrays_gets_the_remedy() -> None:
    with pytest.raises(DataError, match="are in no file") as caught:
        hookline.train({"data": "from-arrays"})
    assert "hookline.from_arrays(inputs, targets)" in str(caught.value.hint)


# ---- splits ---------------------------------------------------------------------------------------------------------


def rows_in(data: DataSource) -> dict[str, list[int]]:
    """Return the numbers of the rows of each split; the inputs are these numbers."""
    return {split: dataset.tensors[0].flatten().int().tolist() for split, dataset in data.splits().items()}  # type: ignore[attr-defined]


ROWS = np.arange(NUM, dtype=np.float32)


def test_splits_are_disjoint_keep_the_order_and_depend_on_the_seed_alone() -> None:
    first, again, other = (rows_in(source(ROWS, TARGETS, validation=0.2, test=0.1, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert {split: len(rows) for split, rows in first.items()} == {"train": 70, "validation": 20, "test": 10}
    assert sorted(row for rows in first.values() for row in rows) == list(range(NUM))
    assert all(rows == sorted(rows) for rows in first.values())


def test_without_shuffling_the_last_rows_are_held_out() -> None:
    rows = rows_in(source(ROWS, LABELS, validation=0.2, test=0.1, shuffle=False))
    assert rows == {"train": [*range(70)], "validation": [*range(70, 90)], "test": [*range(90, 100)]}


def test_each_split_has_the_shares_of_the_classes() -> None:
    data = source(INPUTS, np.random.default_rng(1).permutation(LABELS), validation=0.2, test=0.1)
    counts = {split: tensors(data, split)[1].bincount().tolist() for split in data.splits()}
    assert counts == {"train": [42, 21, 7], "validation": [12, 6, 2], "test": [6, 3, 1]}


def test_a_class_with_one_row_is_trained_on() -> None:
    labels = np.array(["a"] * 50 + ["b"] * 49 + ["rare"])
    assert all(2 in tensors(source(INPUTS, labels, validation=0.2, seed=seed))[1] for seed in range(5))


def test_a_given_validation_set_is_read_by_the_names_of_the_columns() -> None:
    columns = {name: INPUTS[:, number] for number, name in enumerate(NAMES)}
    turned = {"c": INPUTS[:5, 2], "z": INPUTS[:5, 0], "a": INPUTS[:5, 0], "b": INPUTS[:5, 1]}
    data = source(columns, LABELS, validation=(turned, ["top"] * 5))
    inputs, targets = tensors(data, "validation")
    assert np.array_equal(inputs.numpy(), INPUTS[:5])
    assert targets.tolist() == [2] * 5


def test_scales_are_those_of_the_training_rows() -> None:
    data = source(INPUTS, TARGETS, validation=0.2, standardize=True, standardize_target=True, shuffle=False)
    mean, std = INPUTS[:80].mean(0, np.float64), INPUTS[:80].std(0, dtype=np.float64)
    np.testing.assert_allclose(tensors(data, "validation")[0], (INPUTS[80:] - mean) / std, rtol=1e-6, atol=1e-7)
    assert data.unscale is not None
    np.testing.assert_allclose(data.unscale(tensors(data)[1]).flatten(), TARGETS[:80], rtol=1e-6)


# ---- saved runs -----------------------------------------------------------------------------------------------------


def test_a_config_can_set_the_options_and_the_record_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_of(from_arrays(INPUTS, TARGETS, validation=0.2), {"data": {"test": 0.1}, **KEEP}, **{"train.epochs": 0})
    run.fit()
    folder = folder_of(run)
    assert folder is not None
    settings, sizes = folder.record.identity["settings"], folder.record.identity["data"]
    assert (settings["data.use"], settings["data.validation"], settings["data.test"]) == ("from-arrays", 0.2, 0.1)
    assert {split: known["num_examples"] for split, known in sizes.items()} == {
        "train": 70,
        "validation": 20,
        "test": 10,
    }


def test_a_run_resumes_with_the_same_arrays_and_with_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def data(inputs: Any = INPUTS) -> dict[str, Any]:
        return {"data": from_arrays(inputs, TARGETS, validation=0.2, shuffle=False)}

    run = Run(load_config(KEEP, plugins=data()))
    for step in run.steps():
        if step.step == 13:
            run.interrupt("in mid-epoch")
    changed = INPUTS.copy()
    changed[4, 1] += 1  # a row that a sample of the rows, as for data of other sources, would not have
    with pytest.raises(DataError, match="the data of the run have changed"):
        hookline.resume("last", plugins=data(changed))
    with pytest.raises(DataError, match="in no file"):
        hookline.resume("last")
    result = hookline.resume("last", plugins=data()).fit()
    whole = hookline.train(plugins=data())
    assert result.steps == whole.steps == 24
    assert result.history == whole.history
    assert all(map(torch.equal, result.model.parameters(), whole.model.parameters()))
    evaluated = hookline.trained.evaluate_run("last", plugins=data())
    assert evaluated.metrics["validation/loss"] == whole.metrics["validation/loss"]


# ---- predictions ----------------------------------------------------------------------------------------------------


class Batches(nn.Module):
    """Counts its batches and those with gradients, and adds noise in training mode."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(3, outputs)
        self.sizes: list[int] = []
        self.num_with_gradients = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(inputs))
        self.num_with_gradients += torch.is_grad_enabled()
        return self.layer(inputs) + self.training * torch.rand(())  # type: ignore[no-any-return]


def trained(targets: Any, net: Batches, config: Mapping[str, Any] | None = None, **options: Any) -> hookline.RunResult:
    config = {"train": {"epochs": 1, "eval_batch_size": 30}, **(config or {})}
    result = hookline.train(config, plugins={"data": from_arrays(INPUTS, targets, **options), "model": net})
    net.sizes, net.num_with_gradients = [], 0
    return result


def affine(net: Batches, inputs: Any) -> Any:
    """Return the output of the layer as NumPy computes it."""
    return inputs.astype(np.float64) @ net.layer.weight.detach().double().numpy().T + net.layer.bias.detach().numpy()


def test_predictions_are_the_model_in_eval_mode_batch_by_batch_in_the_form_of_the_targets() -> None:
    result = trained(TARGETS, net := Batches())
    np.testing.assert_allclose(result.predict(INPUTS), affine(net, INPUTS)[:, 0], rtol=1e-5, atol=1e-5)
    assert (net.sizes, net.num_with_gradients) == ([30, 30, 30, 10], 0)
    assert result.predict(INPUTS[:0]).shape == (0,)
    assert net.training
    assert trained(TARGETS[:, None], Batches()).predict(INPUTS).shape == (NUM, 1)
    assert trained(np.stack([TARGETS] * 2, 1), Batches(2)).predict(INPUTS).shape == (NUM, 2)


def test_predictions_are_in_the_units_of_the_targets() -> None:
    mean, std = INPUTS.mean(0, np.float64), INPUTS.std(0, dtype=np.float64)
    result = trained(TARGETS, net := Batches(), standardize=True, standardize_target=True)
    expected = affine(net, (INPUTS - mean) / std)[:, 0] * TARGETS.std(dtype=np.float64) + TARGETS.mean(dtype=np.float64)
    np.testing.assert_allclose(result.predict(INPUTS), expected, rtol=1e-5, atol=1e-5)


def test_labels_and_probabilities_are_predicted() -> None:
    result = trained(LABELS, net := Batches(3), CLASSES)
    logits = affine(net, INPUTS)
    odds = np.exp(logits)
    np.testing.assert_allclose(
        result.predict(INPUTS, probabilities=True), odds / odds.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    assert result.predict(INPUTS).tolist() == [["low", "middle", "top"][index] for index in logits.argmax(1)]
    with pytest.raises(ValueError, match="no class has a probability"):
        trained(TARGETS, Batches()).predict(INPUTS, probabilities=True)


def test_the_labels_of_a_binary_task_are_predicted() -> None:
    result = trained(TARGETS > 4, net := Batches(), {"loss": "bce-with-logits"}, task="binary")
    second = 1 / (1 + np.exp(-affine(net, INPUTS)[:, 0]))
    np.testing.assert_allclose(result.predict(INPUTS, probabilities=True), np.stack([1 - second, second], 1), atol=1e-6)
    assert result.predict(INPUTS).tolist() == (second > 0.5).tolist()


@pytest.mark.parametrize("given", FRAMES)
def test_a_frame_to_predict_for_is_read_by_the_names_of_its_columns(given: Callable[[Any], Any]) -> None:
    data = from_arrays(as_mapping(INPUTS), TARGETS)
    result = hookline.train({"train": {"epochs": 1}}, plugins={"data": data})
    expected = result.predict(INPUTS)
    assert np.array_equal(result.predict(given(INPUTS)), expected)
    turned = {"z": INPUTS[:, 0], **dict(reversed(as_mapping(INPUTS).items()))}
    assert np.array_equal(result.predict(turned), expected)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": [1.0], "c": [1.0]}, "the inputs have no column 'b'"),
        (INPUTS[:, :2], r"the inputs have the shape \[2\], but the model was trained on \[3\]"),
        (np.full((2, 3), np.nan), r"row 0 of the inputs is missing \(NaN\) \(the first of 2 such rows\)"),
    ],
)
def test_inputs_unlike_those_of_the_training_are_refused(inputs: Any, message: str) -> None:
    result = hookline.train({"train": {"epochs": 1}}, plugins={"data": from_arrays(as_mapping(INPUTS), TARGETS)})
    with pytest.raises(DataError, match=message):
        result.predict(inputs)


def test_a_saved_run_predicts_the_same_without_its_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = from_arrays(as_mapping(INPUTS), LABELS, standardize=True)
    result = hookline.train({"train": {"epochs": 1}, **CLASSES, **KEEP}, plugins={"data": data})
    saved = load_trained("last")
    assert np.array_equal(saved.predict(INPUTS), result.predict(INPUTS))
    assert saved.predict(INPUTS).dtype == LABELS.dtype
    np.save("inputs.npy", INPUTS)
    np.savez("new.npz", inputs=INPUTS)
    (columns,) = saved.predictions("new.npz")
    assert list(columns) == ["predicted", "probability_low", "probability_middle", "probability_top"]
    assert list(columns["predicted"]) == result.predict(INPUTS).tolist()
    assert np.array_equal(columns["probability_low"], result.predict(INPUTS, probabilities=True)[:, 0])


def test_the_data_source_of_files_predicts_for_arrays_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "examples.npz", inputs=INPUTS, targets=TARGETS)
    table = {"use": "arrays", "path": str(tmp_path / "examples.npz")}
    result = hookline.train({"train": {"epochs": 1}, "data": table})
    assert np.array_equal(result.predict(INPUTS), result.model(torch.tensor(INPUTS)).detach().numpy()[:, 0])


def test_one_data_source_of_arrays_serves_any_number_of_runs() -> None:
    data = from_arrays(INPUTS, TARGETS, validation=0.2)
    first, second = (hookline.train({"train": {"epochs": 2}}, plugins={"data": data}) for _ in range(2))
    assert first.history == second.history


def test_a_copy_of_a_result_leaves_its_run_behind() -> None:
    result = hookline.train({"train": {"epochs": 1}}, plugins={"data": from_arrays(INPUTS, TARGETS)})
    for copied in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert copied.metrics == result.metrics
        with pytest.raises(TrainingError, match="a copy of a result has no run"):
            copied.predict(INPUTS)


class FilesOnly:
    """A data source whose predictor reads files alone."""

    @hookimpl
    def build_data(self) -> DataSource:
        inputs = torch.tensor(INPUTS)
        return DataSource(TensorDataset(inputs, inputs.sum(1, keepdim=True)), in_features=3, out_features=1)

    @hookimpl
    def build_predictor(self) -> Any:
        return SimpleNamespace(read=lambda path, batch_size: iter(()), columns=dict)


def test_a_data_source_that_reads_no_arrays_is_named() -> None:
    with pytest.raises(PluginError, match=r"'FilesOnly' .* predicts for files, not for arrays"):
        hookline.train({"train": {"epochs": 0}}, plugins={"data": FilesOnly()}).predict(INPUTS)
    with pytest.raises(PluginError, match=r"the data source data 'synthetic-linear' .* reads no inputs to predict for"):
        hookline.train({"train": {"epochs": 0}}).predict(INPUTS)


def test_a_run_that_was_left_predicts_with_the_weights_that_it_evaluates() -> None:
    run = run_of(from_arrays(INPUTS, TARGETS), {"callbacks": {"averaging": {}}})
    for step in run.steps():
        if step.step == 12:
            break
    raw = [weight.clone() for weight in run.model.parameters()]
    error = np.mean((run.result().predict(INPUTS) - TARGETS) ** 2)
    assert error == pytest.approx(run.evaluate()["train/loss"], rel=1e-5)
    trained = run.model(torch.tensor(INPUTS)).detach().numpy()[:, 0]
    assert error != pytest.approx(np.mean((trained - TARGETS) ** 2), rel=1e-2)
    assert all(map(torch.equal, run.model.parameters(), raw))


def test_a_run_on_a_table_predicts_for_frames_as_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    polars = pytest.importorskip("polars", reason="the extra tables is not installed")
    colors = np.where(INPUTS[:, 1] > 0, "red", "green")
    frame = polars.DataFrame({"size": INPUTS[:, 0], "color": colors, "amount": 10 * INPUTS[:, 0], "kind": LABELS})
    frame.write_csv("table.csv")
    table = {
        "use": "csv",
        "path": "table.csv",
        "one_hot": ["color"],
        "features": ["size", "color"],
        "standardize": True,
    }
    config = {"train": {"epochs": 1}, "callbacks": {"run-folder": {}}}
    result = hookline.train({**config, "data": {**table, "target": "amount", "standardize_target": True}})
    turned = {"color": colors, "size": INPUTS[:, 0]}
    (of_file,) = load_trained("last").predictions("table.csv")
    for given in (frame, turned):
        np.testing.assert_allclose(result.predict(given), of_file["predicted_amount"], rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="row 2, column 'color': 'blue' was not in the training data"):
        result.predict({"size": [1.0, 2.0], "color": ["red", "blue"]})
    with pytest.raises(DataError, match="the inputs are ndarray, without names of columns"):
        result.predict(INPUTS)
    labels = hookline.train({**config, **CLASSES, "data": {**table, "target": "kind", "task": "classification"}})
    (of_file,) = load_trained("last").predictions("table.csv")
    assert labels.predict(turned).tolist() == of_file["predicted_kind"]
    np.testing.assert_allclose(labels.predict(turned, probabilities=True)[:, 2], of_file["probability_top"], rtol=1e-5)
