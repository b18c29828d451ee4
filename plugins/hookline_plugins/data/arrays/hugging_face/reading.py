"""Opening of datasets on disk by the package ``datasets``, without a network, a cache or progress bars."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline import Location
from hookline.engine import did_you_mean
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from types import ModuleType


_READERS = {".parquet": "from_parquet", ".json": "from_json", ".jsonl": "from_json", ".csv": "from_csv"}
_NUMBERS = ("bool", "int", "uint", "float")
_ELSEWHERE = {
    "string": "texts to classify are read by the data source texts; write the column to a CSV or Parquet file",
    "Image": "images are read by the data source images",
}


def open_datasets(path: Path, faults: Faults) -> dict[str, Any]:
    """Return the datasets in a folder written by ``save_to_disk``, by the names of its splits, or that in a file.

    A dataset without a split has the name ``train``. An Arrow file and a folder stay on disk; another file is read into
    memory.

    Raises:
        DataError: If there are none.
        PluginError: If the package is not installed.
    """
    datasets = optional_package("datasets", "the data source hugging-face needs")
    try:
        with _silent(datasets):
            found = _opened(datasets, path, faults)
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        faults.stop(f"the dataset cannot be read: {error}")
    return dict(found) if isinstance(found, dict) else {"train": found}


def _opened(datasets: ModuleType, path: Path, faults: Faults) -> Any:
    if not path.exists():
        faults.stop("there is no such file or folder", hint=f"nothing is downloaded; {NO_FILE_HINT}")
    if path.is_dir():
        if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            faults.stop("this is no dataset", hint="write it with dataset.save_to_disk(folder), or name a single file")
        return datasets.load_from_disk(str(path))
    if path.suffix == ".arrow":
        return datasets.Dataset.from_file(str(path))
    if path.suffix not in _READERS:
        hint = f"it ends in one of .arrow, {', '.join(_READERS)}"
        faults.stop(f"a file that ends in {path.suffix!r} cannot be read", hint=hint)
    # The package writes each file to a cache first, and would use that copy again.
    with tempfile.TemporaryDirectory() as cache:
        read = getattr(datasets.Dataset, _READERS[path.suffix])
        return read(str(path), cache_dir=cache, keep_in_memory=True)


@contextmanager
def _silent(datasets: ModuleType) -> Iterator[None]:
    was_on = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if was_on:
            datasets.enable_progress_bars()


def check_columns(name: str, dataset: Any, inputs: Sequence[str], target: str, path: Path, faults: Faults) -> None:
    """Add a fault for each column of a split that is missing, has no numbers, or has empty cells."""
    where = Location(f"{path}, split {name}")
    for column in (*inputs, *([target] if target else ())):
        if column not in dataset.features:
            hint = did_you_mean(column, list(dataset.features))
            faults.add(f"there is no column {column!r}", location=where, hint=hint)
            continue
        kind = _kind(dataset.features[column])
        if not kind.startswith(_NUMBERS) and not (kind.endswith("string") and column == target):
            hint = next((text for word, text in _ELSEWHERE.items() if word in kind), "leave it out")
            faults.add(f"column {column!r} holds {kind}, not numbers", location=where, hint=hint)
        if count := dataset.data.column(column).null_count:
            faults.add(f"column {column!r} has {count:,} empty cells", location=where, hint="filter the dataset")


def _kind(feature: Any) -> str:
    """Return the dtype of a feature, or of the numbers in its lists; of another feature, its name."""
    if isinstance(feature, Mapping):
        return "a mapping"
    inner = getattr(feature, "feature", None)
    return _kind(inner) if inner is not None else str(getattr(feature, "dtype", None) or type(feature).__name__)


def is_stacked(features: Any, inputs: tuple[str, ...]) -> bool:
    """Return whether each input is one number."""
    return not any(hasattr(features[name], "feature") or hasattr(features[name], "shape") for name in inputs)
