"""The model of a first run on a table, and how to train it."""

from __future__ import annotations

import math
from typing import Any

Tables = dict[str, dict[str, Any]]

_FEW_ROWS = 100
"""With fewer rows the validation split has less than 20, too few to say when a network has learned enough."""
_MAX_CELLS = 5 * 10**7
"""Cells of a table whose least-squares problem is solved within seconds; a larger one is fitted by Adam."""
_LINEAR_STEPS = 2000
"""Steps of a linear model with Adam on standardized columns: enough, and done within seconds."""
_STEPS, _MAX_EPOCHS = 1500, 100
"""Steps of a network, and epochs of it on a small table; it mostly stops earlier. Chosen by half of the tables of
``tests/benchmarks/real_tables.py``, as the other numbers of the network."""
_LR = 0.003
_DECAY = 0.98
"""The average of the weights spans about 50 steps, a small part of a run."""
_PATIENCE = 16
"""Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", https://arxiv.org/abs/2106.11959."""


def first_model(num_rows: int, share: float, num_features: int, task: str) -> tuple[Tables, str]:
    """Return the tables ``train``, ``model``, ``loss``, ``optimizer`` and ``callbacks`` of a config, and their reason.

    Args:
        num_rows: Rows of the table that have a target.
        share: The share of them in the training split; the others are for validation.
        num_features: Columns to predict from.
        task: ``regression`` or ``classification``.
    """
    num_trained = max(round(num_rows * share), 1)
    if num_rows < _FEW_ROWS:
        reason = f"the model is linear: {num_rows} rows are too few to tell when a network has learned enough"
        return _linear(num_trained, num_features, task), reason
    reason = "the model is a network beside a linear path; model=linear takes the usual one, with coefficients"
    return _network(num_trained, task), reason


def _network(num_rows: int, task: str) -> Tables:
    batch_size = min(max(num_rows // 8, 16), 256)
    epochs = min(math.ceil(_STEPS / math.ceil(num_rows / batch_size)), _MAX_EPOCHS)
    return {
        "train": {"epochs": epochs, "batch_size": batch_size},
        "model": {"use": "tabular", "start": "fitted"},
        "loss": _loss(task),
        "optimizer": {"use": "adamw", "lr": _LR},
        "callbacks": {
            "averaging": {"decay": _DECAY},
            "best": {"restore": True},
            "early-stopping": {"patience": _PATIENCE},
        },
    }


def _linear(num_rows: int, num_features: int, task: str) -> Tables:
    tables: Tables = {"model": {"use": "linear"}, "loss": _loss(task)}
    if task == "regression" and num_rows * num_features <= _MAX_CELLS:
        train = {"epochs": 1, "batch_size": "all", "dtype": "float64"}
        tables["model"]["start"] = "least-squares"
        return {"train": train, **tables, "optimizer": {"use": "lbfgs"}}
    batch_size = min(max(num_rows // 100, 4), 1024)
    train = {"epochs": math.ceil(_LINEAR_STEPS / math.ceil(num_rows / batch_size)), "batch_size": batch_size}
    optimizer: dict[str, Any] = {"use": "adam", "lr": 0.01}
    if task == "classification":
        optimizer["weight_decay"] = float(f"{1 / num_rows:.1g}")
    return {"train": train, **tables, "optimizer": optimizer}


def _loss(task: str) -> dict[str, Any]:
    return {"use": "mse" if task == "regression" else "cross-entropy"}
