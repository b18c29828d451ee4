"""The metrics of a run as a frame."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hookline.engine.errors import PluginError
from hookline.runs.curves import metric_lines

if TYPE_CHECKING:
    from polars import DataFrame

    from hookline.engine.result import RunResult


def frame(source: RunResult | str | os.PathLike[str]) -> DataFrame:
    """Return the metrics of a run as a frame of polars: a row for each epoch of a result, each line of a run folder.

    A metric that a row does not have is null. For pandas, use ``pandas.DataFrame(result.history)`` or
    ``frame(...).to_pandas()``.

    Args:
        source: The result of a run, or the path of a run folder.

    Raises:
        PluginError: When polars is not installed.
        ConfigError: When the folder cannot be read.
    """
    try:
        polars: Any = importlib.import_module("polars")
    except ImportError as error:
        raise PluginError(f"a frame needs polars: {error}", hint="pip install 'hookline[tables]'") from error
    history = getattr(source, "history", None)
    if history is None:
        rows = metric_lines(Path(cast(str, source)))
    else:
        rows = ({"epoch": epoch, **metrics} for epoch, metrics in enumerate(history, 1))
    return cast("DataFrame", polars.DataFrame(list(rows), infer_schema_length=None))
