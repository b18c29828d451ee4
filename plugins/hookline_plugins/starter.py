"""The config of a good first run on a table: what ``hookline init`` writes for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookline_plugins.table_file import Faults, Sheet, polars, read_header, read_table

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

_MAX_CATEGORIES = 20
"""Text with more different values than this is left out: it is more likely a name or a remark than a category."""

_NUM_STEPS = 2000
"""Steps of a first run: enough for Adam on standardized columns, and done in seconds."""

_MIN_ROWS_TO_SPLIT = 10
_BATCH_SIZE = 32


def from_table(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a config that trains on a CSV or Parquet file.

    The last column is the target. Text, and whole numbers of which there are only two, make a classification.

    Raises:
        DataError: When the file cannot be read as a table; carries every fault found.
        PluginError: When polars is not installed.
    """
    faults = Faults(path)
    delimiter = _guess_delimiter(path)
    sheet = read_table(path, delimiter, faults)
    if len(sheet.names) < 2:
        faults.add("the table has only one column", hint="it needs a target and at least one feature")
    faults.check(sheet)
    columns = {name: sheet.column(name) for name in sheet.names if name}
    ...
