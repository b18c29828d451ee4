"""What the unit tests share: hookline's own plugins as a catalog, with those that a test adds."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from hookline import Catalog
from hookline.config import Entry

_OWN = {
    "data": {"synthetic-linear": "data.synthetic:SyntheticLinear", "csv": "data.tables.table:Table"},
    "model": {"linear": "models.linear:Linear", "mlp": "models.mlp:MLP"},
    "loss": {
        "mse": "losses.regression:MSE",
        "l1": "losses.regression:L1",
        "cross-entropy": "losses.classification:CrossEntropy",
    },
    "optimizer": {
        "sgd": "optimizers.torch_optimizers:SGD",
        "adam": "optimizers.torch_optimizers:Adam",
        "adamw": "optimizers.torch_optimizers:AdamW",
    },
    "parallel": {"ddp": "parallel.ddp:DistributedDataParallel"},
    "callback": {
        "try-first-batch": "callbacks.try_first_batch:TryFirstBatch",
        "json-lines": "callbacks.json_lines:JSONLines",
        "early-stopping": "callbacks.early_stopping:EarlyStopping",
    },
}


@pytest.fixture
def catalog_with() -> Callable[..., Catalog]:
    """Return a function that makes a catalog of hookline's own plugins and of the given entries."""
    own = [
        Entry(kind, name, f"hookline_plugins.{value}", "hookline", "0.1.0")
        for kind, named in _OWN.items()
        for name, value in named.items()
    ]
    declared = {"run": "defaults:RUN", "hooks": "steps.default_hooks:DefaultHooks", "tables": "defaults:TABLES"}
    defaults = [EntryPoint(name, f"hookline_plugins.{value}", "hookline.defaults") for name, value in declared.items()]

    def make(*entries: Entry) -> Catalog:
        return Catalog([*own, *entries], defaults=defaults)

    return make
