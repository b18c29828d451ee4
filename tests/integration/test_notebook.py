"""Hookline in a real notebook: objects shown as HTML, progress updated in place, frames and figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

CELLS = [
    """
    import sys, hookline
    config = hookline.load_config({}, {"train.epochs": 4, "optimizer.lr": 0.1})
    print("torch" in sys.modules)
    config
    """,
    """
    callbacks = {"notebook": {"every_s": 1e-9}, "run-folder": {"name": "first"}}
    result = hookline.train({"callbacks": callbacks}, {"train.epochs": 4})
    """,
    "result",
    """
    run = hookline.Run(config)
    run
    """,
    """
    from hookline.trained import load_trained
    load_trained("last")
    """,
    """
    print(hookline.runs.frame(result).shape, hookline.runs.frame("runs/0001-first").shape)
    """,
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """The outputs of each cell."""
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def _html(outputs: Sequence[Any]) -> list[str]:
    return [each.data["text/html"] for each in outputs if "data" in each and "text/html" in each.data]


def test_a_config_is_shown_with_its_origins_and_without_torch(outputs: list[list[Any]]) -> None:
    assert outputs[0][0].text == "False\n"
    [html] = _html(outputs[0])
    assert "RunConfig" in html
    assert ">optimizer.lr<" in html
    assert ">0.1<" in html
    assert ">python<" in html


def test_progress_is_updated_in_the_one_output_of_the_cell(outputs: list[list[Any]]) -> None:
    [html] = _html(outputs[1])  # each update replaced the one before
    assert "completed after" in html
    assert "epoch 4 of 4, step 400 of 400" in html
    assert html.count("<polyline") == 2
    assert html.count("<tr>") == 5  # the head, and an epoch each


def test_results_runs_and_trained_models_are_shown(outputs: list[list[Any]]) -> None:
    [result], [run], [trained] = _html(outputs[2]), _html(outputs[3]), _html(outputs[4])
    assert "RunResult: completed after 400 steps, 4 epochs" in result
    assert "<svg" in result
    assert "3 parameters" in run
    assert "0 of 400" in run
    assert "model.safetensors, after 400 steps" in trained
    assert outputs[5][0].text == "(4, 3) (4, 4)\n"
