"""Config of a first run on a folder of images, which ``hookline init`` writes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.images.listing import list_folder
from hookline_plugins.data.images.reading import pillow, scan
from hookline_plugins.data.tables.starting.starter import Starter, seen_from

if TYPE_CHECKING:
    from pathlib import Path

_SIDE = 64
"""Height and width of images of different sizes: enough to tell many things apart, and trained in minutes."""
_EPOCHS = 10


def from_images(path: Path, folder: Path, target: str | None = None, task: str | None = None) -> Starter:
    """Return a config in ``folder`` that trains on the images of a folder at ``path``.

    Args:
        path: The folder.
        folder: The folder of the config.
        target: A column to predict, which images in folders lack.
        task: ``classification``, or None for the same.

    Raises:
        DataError: If the images cannot be used, or a target or another task is given; carries every fault.
        PluginError: If Pillow is not installed.
    """
    pillow()
    faults = Faults(path)
    if target or task == "regression":
        faults.stop(
            "the targets of images in folders are the names of the folders", hint="leave --target and --task out"
        )
    listing = list_folder(path, faults)
    headers = scan(listing.paths, faults)
    faults.check()
    labels = Counter(listing.targets["label"])
    data: dict[str, Any] = {"use": "images", "path": seen_from(folder, path)}
    remarks = [f"classification: {len(listing.names):,} images in {len(labels):,} classes, {_shown(labels)}"]
    if listing.splits:
        remarks.append(f"the splits are the folders {', '.join(dict.fromkeys(listing.splits))}")
    if "validation" not in listing.splits:
        data["split"] = [0.8, 0.2]
        remarks.append("a fifth of the training images is the validation split, with the same share of each class")
    sizes = {header.size for header in headers if header}
    if len(sizes) > 1:
        data["size"] = [_SIDE, _SIDE]
        remarks.append(f"the images have {len(sizes):,} different sizes: each is made {_SIDE} x {_SIDE}")
    count = len(listing.left_out)
    warnings = [f"{count:,} files are no images by their names: {listing.left_out[0]}"] if count else []
    tables: dict[str, dict[str, Any]] = {
        "train": {"epochs": _EPOCHS, "batch_size": 64},
        "data": data,
        "model": {"use": "cnn"},
        "loss": {"use": "cross-entropy"},
        "optimizer": {"use": "adam"},
        "callbacks": {"worst-images": {}},
    }
    return Starter(tables, remarks, warnings)


def _shown(labels: Counter[Any]) -> str:
    names = ", ".join(f"{label} ({count:,})" for label, count in sorted(labels.items())[:5])
    return f"{names} and {len(labels) - 5:,} more" if len(labels) > 5 else names
