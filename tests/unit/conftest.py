"""What the unit tests share: hookline's own plugins as a catalog, with those that a test adds."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from hookline import Catalog, Entry

_OWN = {
    "data": {"synthetic-linear": "synthetic:SyntheticLinear", "csv": "tables:Table"},
    "model": {"linear": "models:Linear", "mlp": "models:MLP"},
    "loss": {"mse": "losses:MSE", "l1": "losses:L1", "cross-entropy": "losses:CrossEntropy"},
    "optimizer": {"sgd": "optimizers:SGD", "adam": "optimizers:Adam", "adamw": "optimizers:AdamW"},
    "callback": {"json-lines": "json_lines:JSONLines", "early-stopping": "early_stopping:EarlyStopping"},
}


@pytest.fixture
def catalog_with() -> Callable[..., Catalog]:
    """Return a function that makes a catalog of hookline's own plugins and of the given entries."""
    own = [
        Entry(kind, name, f"hookline_plugins.{value}", "hookline", "0.1.0")
        for kind, named in _OWN.items()
        for name, value in named.items()
    ]
    defaults = [EntryPoint("run", "hookline_plugins.defaults:RUN", "hookline.defaults")]

    def make(*entries: Entry) -> Catalog:
        return Catalog([*own, *entries], defaults=defaults)

    return make
