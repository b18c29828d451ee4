"""Summary of a model: rows of its modules, sizes, and the rows that are shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import Run, load_config
from hookline.trials import ModelSummary, OutputShapes, summarize


def column(summary: ModelSummary, key: str) -> dict[str, Any]:
    return {str(row["name"]): row[key] for row in summary.rows}


class Tied(nn.Module):
    """A decoder that shares the weights of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(10, 4)
        self.decoder = nn.Linear(4, 10, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, inputs: Tensor) -> Any:
        return self.decoder(self.encoder(inputs))


def test_each_module_has_a_row_with_what_is_inside_it_counted_once() -> None:
    summary = summarize(nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
    assert column(summary, "class") == {
        "": "Sequential",
        "0": "Linear",
        "1": "Sequential",
        "1.0": "Linear",
        "1.1": "ReLU",
    }
    assert column(summary, "parameters") == {"": 14, "0": 8, "1": 6, "1.0": 6, "1.1": 0}
    assert set(column(summary, "shared").values()) == {0}


def test_frozen_parameters_are_not_trainable() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    summary = summarize(model)
    assert column(summary, "trainable") == {"": 6, "0": 0, "1": 6}
    assert (summary.num_parameters, summary.num_trainable) == (14, 6)


def test_shared_parameters_count_once_in_the_sums_and_are_shown() -> None:
    summary = summarize(Tied())
    assert summary.num_parameters == 40
    assert column(summary, "parameters") == {"": 40, "encoder": 40, "decoder": 40}
    assert column(summary, "shared") == {"": 0, "encoder": 0, "decoder": 40}


def test_a_module_in_two_places_has_two_rows() -> None:
    layer = nn.Linear(2, 2)
    summary = summarize(nn.Sequential(layer, nn.Tanh(), layer))
    assert column(summary, "parameters") == {"": 6, "0": 6, "1": 0, "2": 6}
    assert column(summary, "shared") == {"": 0, "0": 0, "1": 0, "2": 6}
    assert summary.num_parameters == 6


def test_bytes_are_those_of_the_dtypes_and_buffers_are_apart() -> None:
    summary = summarize(nn.Sequential(nn.Linear(2, 2).double(), nn.BatchNorm1d(2)))
    # 6 of float64 and 4 of float32; two running means of 2 and an int64 counter.
    assert (summary.parameter_bytes, summary.buffer_bytes) == (6 * 8 + 4 * 4, 4 * 4 + 8)


def test_shapes_are_those_of_the_first_call_of_each_module() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Unflatten(1, (2, 1)), nn.Flatten(), layer)
    with OutputShapes(model) as shapes:
        model(torch.zeros(5, 2))
        model(torch.zeros(7, 2))
    expected = {"": "[5, 2]", "0": "[5, 2]", "1": "[5, 2, 1]", "2": "[5, 2]", "3": "[5, 2]"}
    assert column(summarize(model, shapes), "output") == expected


def test_every_tensor_of_an_output_is_shown_and_an_uncalled_module_has_no_shape() -> None:
    model = nn.ModuleList([nn.LSTM(3, 4), nn.Linear(4, 1)])
    with OutputShapes(model) as shapes:
        model[0](torch.zeros(6, 2, 3))
    assert column(summarize(model, shapes), "output") == {"": "", "0": "[6, 2, 4], [1, 2, 4], [1, 2, 4]", "1": ""}


def test_nothing_stays_on_the_model_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(RuntimeError), OutputShapes(model):
        model(torch.zeros(5, 3))
    assert [len(module._forward_hooks) for module in model.modules()] == [0, 0]


def test_all_rows_are_shown_down_to_the_greatest_depth_that_fits() -> None:
    blocks = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(4)]
    summary = summarize(nn.Sequential(*blocks))
    for max_rows, num_shown in ((13, 13), (12, 5), (5, 5)):
        rows, num_left_out = summary.readable(max_rows)
        assert (len(rows), num_left_out) == (num_shown, 13 - num_shown)


def test_a_model_of_a_thousand_layers_stays_readable_and_counts_the_rows_left_out() -> None:
    rows, num_left_out = summarize(nn.Sequential(*(nn.Linear(2, 2) for _ in range(1000)))).readable()
    assert [row["name"] for row in rows] == ["", *map(str, range(39))]
    assert num_left_out == 961


def test_a_model_without_parts_is_one_row() -> None:
    rows, num_left_out = summarize(nn.Linear(2, 1)).readable(2)
    assert ([row["name"] for row in rows], num_left_out) == ([""], 0)


def test_a_run_is_summarized_during_its_trial_step() -> None:
    run = Run(load_config({"model": {"use": "mlp", "hidden": [8]}}))
    with OutputShapes(run.model) as shapes:
        next(run.try_steps()).loss.item()
    assert column(summarize(run.model, shapes), "output") == {
        "": "[10, 1]",
        "0": "[10, 8]",
        "1": "[10, 8]",
        "2": "[10, 1]",
    }
