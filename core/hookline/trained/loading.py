"""Load the model of a saved run, ready to predict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hookline.engine.config.loading import load_config
from hookline.engine.plugin.catalog import Catalog
from hookline.runs.folder import CONFIG, read_data
from hookline.runs.search import find_run
from hookline.trained.model import Trained, _AskedRun
from hookline.trained.weights import load_weights_into, read_weights


def load_trained(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
) -> Trained:
    """Load the model of a run with its weights, ready to predict.

    The training data are not read, and nothing in the run folder is written. The arguments are those of
    ``evaluate_run``.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        HooklineError: As ``Run`` raises it.
    """
    path = find_run(os.fspath(run), parent)
    config = load_config(path / CONFIG, overrides, catalog=catalog)
    weights = read_weights(path, checkpoint)
    asked = _AskedRun(config, read_data(path))
    notes = load_weights_into(asked, weights, path)
    return Trained(asked, path, weights.origin, weights.step, (*weights.notes, *asked.warnings, *notes))
