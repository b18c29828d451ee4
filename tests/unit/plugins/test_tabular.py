"""The model ``tabular``: its output, its linear start against formulas, its encodings, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import ContractError, DataSource, Run, hookimpl, load_config
from hookline_plugins.models.linear_fits import logistic, ridge
from hookline_plugins.models.tabular import Tabular
from hookline_plugins.models.tabular_network import TabularNetwork


def some(num_examples: int = 40, num_numbers: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_examples, num_numbers, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_examples, 1, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True) + 0.5 * noise + 2


def regression(inputs: Tensor, targets: Tensor) -> DataSource:
    examples = TensorDataset(inputs, targets)
    return DataSource(examples, in_features=inputs.shape[1], out_features=targets.shape[1], task="regression")


class Coded(Dataset[Any]):
    """Numbers and codes of two columns of categories."""

    def __init__(self, numbers: Tensor, codes: Tensor, targets: Tensor) -> None:
        self.parts = numbers, codes, targets

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: Any) -> Any:
        numbers, codes, targets = (part[index] for part in self.parts)
        return {"numbers": numbers, "categories": codes}, targets


def coded(num_examples: int = 60) -> DataSource:
    inputs, targets = some(num_examples)
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(1, count, (num_examples,), generator=generator) for count in (4, 3)], dim=1)
    effects = torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=torch.float64)
    data = Coded(inputs, codes, targets + effects[codes[:, :1]])
    return DataSource(data, out_features=1, task="regression", kept={"num_codes": [4, 3]})


class Given:
    def __init__(self, data: DataSource) -> None:
        self.data = data

    @hookimpl
    def build_data(self) -> DataSource:
        return self.data


def built(data: DataSource, **options: Any) -> TabularNetwork:
    torch.manual_seed(0)
    network = Tabular(**options).build_model(data)
    assert isinstance(network, TabularNetwork)
    return network.double().eval()


def ridge_by_hand(inputs: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Solve the normal equations of a ridge regression with a free intercept."""
    centered = inputs - inputs.mean(0)
    gram = centered.T @ centered + penalty * np.eye(inputs.shape[1])
    weight = np.linalg.solve(gram, centered.T @ (targets - targets.mean()))
    return weight, targets.mean() - weight @ inputs.mean(0)


def error_without_each(inputs: np.ndarray, targets: np.ndarray, penalty: float) -> float:
    """Return the mean squared error for each example of the fit to all others."""
    errors = []
    for left_out in range(len(inputs)):
        others = np.arange(len(inputs)) != left_out
        center, middle = inputs.mean(0), targets.mean()  # the columns are centered once, by all examples
        centered, scaled = inputs[others] - center, targets[others] - middle
        # An example that stands for the intercept: without it, too, the fit has one.
        gram = centered.T @ centered - np.outer(centered.sum(0), centered.sum(0)) / others.sum()
        weight = np.linalg.solve(
            gram + penalty * np.eye(inputs.shape[1]), centered.T @ scaled - centered.sum(0) * scaled.mean()
        )
        bias = scaled.mean() - weight @ centered.mean(0)
        errors.append((targets[left_out] - middle - weight @ (inputs[left_out] - center) - bias) ** 2)
    return float(np.mean(errors))


# ---- the linear start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_numbers", [3, 30], ids=["many rows", "as wide as long"])
def test_ridge_takes_the_penalty_that_predicts_left_out_rows_best(num_numbers: int) -> None:
    inputs, targets = some(32, num_numbers)
    x, y = inputs.numpy(), targets[:, 0].numpy()
    best = min((10.0**power for power in range(-3, 7)), key=lambda penalty: error_without_each(x, y, penalty))
    weight, bias = ridge(inputs, targets)
    expected = ridge_by_hand(x, y, best)
    np.testing.assert_allclose(weight[0].numpy(), expected[0], rtol=1e-8, atol=1e-10)
    assert bias.item() == pytest.approx(expected[1])


def test_ridge_on_noise_stays_near_the_mean() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs, targets = (torch.randn(20, count, generator=generator, dtype=torch.float64) for count in (100, 1))
    weight, _ = ridge(inputs, targets)
    assert (inputs @ weight.T).var() < 0.1 * targets.var()


def test_logistic_is_at_the_optimum_of_its_loss() -> None:
    inputs, targets = some(60)
    classes = (targets[:, 0] > 1).long() + (targets[:, 0] > 3).long()
    weight, bias = logistic(inputs, classes, 3)
    wrong = torch.softmax(inputs @ weight.T + bias, dim=1) - nn.functional.one_hot(classes, 3)
    assert (wrong.T @ inputs + weight).abs().max() < 1e-3  # the gradient, worked out by hand
    assert wrong.sum(0).abs().max() < 1e-3


def test_logistic_of_two_answers_is_at_the_optimum_of_its_loss() -> None:
    inputs, targets = some(60)
    answers = (targets > 2).double()
    weight, bias = logistic(inputs, answers, 1)
    wrong = torch.sigmoid(inputs @ weight.T + bias) - answers
    assert (wrong.T @ inputs + weight).abs().max() < 1e-3
    assert wrong.sum().abs() < 1e-3


def test_training_begins_at_the_fitted_line() -> None:
    inputs, targets = some()
    network = built(regression(inputs, targets), start="fitted")
    weight, bias = ridge(inputs, targets)
    torch.testing.assert_close(network(inputs), inputs @ weight.T + bias, rtol=0, atol=1e-6)
    assert not built(regression(inputs, targets))(inputs).any()


def test_the_line_of_codes_is_that_of_columns_of_0_and_1() -> None:
    data = coded()
    assert isinstance(data.train, Coded)
    numbers, codes, targets = data.train.parts
    wide = torch.cat([numbers, *(nn.functional.one_hot(codes[:, c], n) for c, n in enumerate((4, 3)))], dim=1)
    weight, bias = ridge(wide, targets)
    predicted = built(data, start="fitted")(numbers, codes)
    torch.testing.assert_close(predicted, wide @ weight.T + bias, rtol=0, atol=1e-5)


def test_many_examples_are_thinned_out_for_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = some(41)
    monkeypatch.setattr("hookline_plugins.models.training_rows._MAX_NUMBERS", 3 * 11)
    weight, bias = ridge(inputs[::4], targets[::4])
    network = built(regression(inputs, targets), start="fitted")
    torch.testing.assert_close(network(inputs), inputs @ weight.T + bias, rtol=0, atol=1e-6)


# ---- the network -----------------------------------------------------------------------------------------------------


def test_pieces_are_the_shares_of_the_way_between_quantiles() -> None:
    numbers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [4.0, 1.0], [8.0, 1.0]], dtype=torch.float64)
    network = built(regression(numbers, numbers[:, :1]), bins=4)
    seen: list[Tensor] = []
    network.first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.tensor([[3.0, 0.25], [9.0, 1.0]], dtype=torch.float64))
    # Edges 0, 1, 2, 4, 8; and 0, 0, 0, 1, 1: a column of two values has one piece.
    expected = [[3, 0.25, 1, 1, 0.5, 0, 0, 0, 0.25, 0], [9, 1, 1, 1, 1, 1, 0, 0, 1, 0]]
    torch.testing.assert_close(seen[0], torch.tensor(expected, dtype=torch.float64))


def test_the_network_is_that_of_the_formula() -> None:
    data = coded()
    assert isinstance(data.train, Coded)
    numbers, codes, _ = data.train.parts
    network = built(data, blocks=1, width=5, bins=0, embedding=2)
    nn.init.normal_(network.last.weight)
    assert network.embeddings is not None
    assert network.effects is not None
    nn.init.normal_(network.effects.weight)
    table = network.embeddings.weight
    block: Any = network.blocks[0].layers
    hidden = network.first(torch.cat([numbers, table[codes[:, 0]], table[4 + codes[:, 1]]], dim=1))
    hidden = hidden + block[4](torch.relu(block[1](block[0](hidden))))
    effects = network.effects.weight
    expected = network.last(torch.relu(network.norm(hidden))) + effects[codes[:, 0]] + effects[4 + codes[:, 1]]
    torch.testing.assert_close(network(numbers, codes), expected)


@pytest.mark.parametrize("make", [coded, lambda: regression(*some())], ids=["codes", "one tensor"])
def test_it_learns_and_its_saved_weights_predict_the_same(tmp_path: Path, make: Any) -> None:
    data = make()
    config = {
        "train": {"epochs": 30, "batch_size": 10},
        "model": {"use": "tabular", "start": "fitted", "bins": 2, "width": 8},
        "optimizer": {"use": "adamw", "lr": 3e-3},
    }
    run = Run(load_config(config, plugins={"data": Given(data)}))
    first = run.model.state_dict()
    before = {name: value.clone() for name, value in first.items()}
    run.fit()
    assert run.history[-1]["train/loss"] < run.history[0]["train/loss"]
    assert any(not torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    other = Run(load_config(config, {"train.seed": 5}, plugins={"data": Given(data)}))
    other.model.load_state_dict(run.model.state_dict())
    batch = data.train[:4][0] if isinstance(data.train, Coded) else data.train[:4][:1]
    parts = list(batch.values()) if isinstance(batch, dict) else list(batch)
    parts = [part.float() if part.is_floating_point() else part for part in parts]
    assert torch.equal(run.model.eval()(*parts), other.model.eval()(*parts))


@pytest.mark.parametrize("make", [coded, lambda: regression(*some())], ids=["codes", "one tensor"])
def test_torch_exports_it_for_batches_of_any_size(make: Any) -> None:
    data = make()
    network = built(data, start="fitted")
    batch = data.train[:4][0]
    parts = tuple(batch.values()) if isinstance(batch, dict) else (batch,)
    size = torch.export.Dim("size")
    program = torch.export.export(network, parts, dynamic_shapes=tuple({0: size} for _ in parts)).module()
    twice = tuple(torch.cat([part, part]) for part in parts)
    torch.testing.assert_close(program(*twice), network(*twice))


# ---- errors ----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(3), torch.zeros(1)


def test_a_stream_needs_a_start_without_examples() -> None:
    data = DataSource(Stream(), in_features=3, out_features=1, task="regression")
    with pytest.raises(ContractError, match="looks at all training examples, but the data are a stream"):
        Tabular().build_model(data)
    assert built(data, bins=0)(torch.zeros(2, 3, dtype=torch.float64)).shape == (2, 1)


def test_what_the_data_lack_is_said() -> None:
    inputs, targets = some()
    untold = DataSource(TensorDataset(inputs, targets), in_features=3, out_features=1)
    with pytest.raises(ContractError, match="needs the task of the data"):
        Tabular(start="fitted").build_model(untold)
    with pytest.raises(ContractError, match=r"number of codes of 2 columns, but got 0"):
        Tabular().build_model(DataSource(coded().train, out_features=1))
    odd = DataSource([({"image": torch.zeros(3)}, torch.zeros(1))], out_features=1)  # type: ignore[arg-type] # a list will do
    with pytest.raises(ContractError, match="'numbers' and 'categories', but got a mapping of 'image'"):
        Tabular().build_model(odd)


# ---- a table with codes ----------------------------------------------------------------------------------------------


def test_a_table_with_codes_is_learned_and_new_rows_are_predicted(tmp_path: Path) -> None:
    levels = ["red", "green", "blue"]
    lines = [f"{number % 7},{levels[number % 3]},{number % 7 + 10 * (number % 3)}" for number in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("x,colour,y\n" + "\n".join(lines) + "\n")
    data = {"use": "csv", "path": path, "target": "y", "one_hot": ["colour"], "categories": "codes", "unseen": "mean"}
    config = {
        "data": {**data, "standardize": True, "standardize_target": True},
        "model": {"use": "tabular", "start": "fitted"},
        "train": {"epochs": 1, "dtype": "float64"},
        "optimizer": {"use": "sgd", "lr": 0.0},
    }
    result = Run(load_config(config)).fit()
    given = {"x": [1.0, 5.0, 1.0], "colour": ["red", "blue", "violet"]}
    assert result.predict(given)[:2] == pytest.approx([1, 25], abs=0.1)  # y = x + 10, 20 or nothing
    assert np.isfinite(result.predict(given)).all()
