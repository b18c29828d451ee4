"""Data source ``images``: a folder for each class, or a table with the paths of images and their targets.

Shapes: ``N`` images, ``H`` rows, ``W`` columns, ``C`` channels, ``O`` targets.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.images.options import Mode, Resize
from hookline_plugins.data.splits import (
    Fold,
    FoldSeed,
    Fractions,
    SplitSeed,
    check_fold,
    check_fractions,
    with_origins,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from hookline import Predictor, RunView
    from hookline.engine import Evaluated
    from hookline.sections import Section
    from hookline_plugins.data.images.dataset import Pictures
    from hookline_plugins.data.images.listing import Listing
    from hookline_plugins.data.images.preparation import Preparation
    from hookline_plugins.data.images.reading import Form, Header
    from hookline_plugins.data.targets import Targets


_LARGE_BYTES = 2**30
"""Images whose pixels are larger than this stay in their files. It is a fixed size, not the free memory, so that a run
reads in the same way everywhere."""

_NUM_SHOWN = 24
"""Number of images that a report shows."""

_MEASURED = 1000
"""Number of images from which mean and standard deviation are computed if they stay in their files."""

_Size = Annotated[int, Meta(ge=1, le=2**14)]
_Level = Annotated[float, Meta(ge=0, le=1)]


@dataclass
class Images:
    """Images in a folder for each class, or in files that a table names, with classes or numbers as targets.

    Inputs are float32 ``[C, H, W]``: pixels on a scale from 0 to 1, minus the mean of their channel, divided by its
    standard deviation. Targets are class indices ``[]``, 0 or 1 ``[1]`` (binary), or float64 ``[O]`` (regression).

    The folders of the classes stand in ``path``, or in its folders ``train``, ``validation`` and ``test``. Images are
    turned upright as their Exif tags say; of several frames the first is read, and transparency is ignored. All files
    are looked at before the run: their headers, or their pixels if they are kept in memory.

    Random changes are for the training split alone. They belong to the seed, the epoch and the example, whichever
    process reads it in whichever batch.
    """

    path: Annotated[Path, Meta(description="a folder, or a table (CSV, or Parquet) with a row for each image")]
    column: Annotated[str, Meta(min_length=1, description="column of the table with the paths, from its folder on")] = (
        "path"
    )
    target: Annotated[
        str | Annotated[tuple[str, ...], Meta(min_length=1)],
        Meta(description="column of the table to predict, or a list of columns"),
    ] = "label"
    task: Annotated[
        Literal["auto", "regression", "classification", "binary"],
        Meta(description="how to treat the targets; auto: texts and a few different integers are classes"),
    ] = "auto"
    split: Fractions = (1.0,)
    split_seed: SplitSeed = 0
    fold: Fold = ""
    fold_seed: FoldSeed = 0
    split_column: Annotated[str, Meta(description="column of the table with the split of each image")] = ""
    size: Annotated[
        tuple[_Size, _Size] | None, Meta(description="height and width of all images; none: they have the same size")
    ] = None
    resize: Annotated[
        Resize,
        Meta(description="for another shape: cut off what is too long, add black borders, or change the proportions"),
    ] = "crop"
    mode: Annotated[
        Mode | Literal["auto"],
        Meta(
            description="grey or rgb of 8 bits, or grey of 16; auto: rgb if any image has colours, 16 bits if any has"
        ),
    ] = "auto"
    mean: Annotated[
        tuple[_Level, ...], Meta(description="mean of each channel, from 0 to 1; none: that of the training split")
    ] = ()
    std: Annotated[
        tuple[Annotated[float, Meta(gt=0)], ...],
        Meta(description="standard deviation of each channel; none: that of the training split"),
    ] = ()
    standardize_target: Annotated[
        bool, Meta(description="scale the targets of a regression to mean 0 and standard deviation 1")
    ] = False
    augment: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="random changes of training images, in this order: a table of options for each name"),
    ] = field(default_factory=dict)
    in_memory: Annotated[
        bool | Literal["auto"],
        Meta(description="keep the pixels in memory; auto: if they are at most 1 GiB"),
    ] = "auto"
    faulty: Annotated[
        Literal["error", "empty"],
        Meta(description="new images that cannot be read: report an error, or leave their predictions empty"),
    ] = "error"

    def __post_init__(self) -> None:
        from hookline_plugins.data.images.augmenting import operations

        check_fractions(self.split)
        check_fold(self.fold)
        self._operations = operations(self.augment)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"`mean` has {len(self.mean)} values, and `std` {len(self.std)}: give one for each channel"
            )

    @hookimpl
    def build_data(self, run: RunView) -> DataSource:
        """Find the images, look at all files, and read those that are kept in memory."""
        from hookline_plugins.data.images.dataset import read_all
        from hookline_plugins.data.images.reading import pillow, scan

        pillow()
        faults = Faults(self.path)
        listing = self._listing(faults)
        if listing.left_out:
            count, first = len(listing.left_out), listing.left_out[0]
            run.warn(f"{count:,} file{'s' * (count != 1)} in {self.path} left out: no images by their names ({first})")
        headers = scan(listing.paths, faults)
        form = self._form(headers, faults)
        if form and faults.has_any and self._keeps(listing, form):
            sound = [name for name, header in zip(listing.names, headers, strict=True) if header]
            read_all(listing.root, sound, form, faults)  # for their faults alone
        faults.check()
        assert form is not None, "images without a form are a fault"
        targets, rows = self._targets(listing, faults)
        pictures = self._pictures(listing, rows, form, faults)
        preparation, kept = self._prepared(pictures["train"], form)
        return self._source(pictures, {split: targets.values[split] for split in rows}, targets, preparation, kept)

    @hookimpl
    def build_report(self, run: RunView, split: str, evaluated: Evaluated | None) -> list[Section]:
        """Show the images that the model predicts worst."""
        from hookline.sections import Image
        from hookline.sections import Images as Pictures
        from hookline_plugins.callback_parts.contact_sheet import png_of
        from hookline_plugins.callbacks.worst_images import Errors, shown_of
        from hookline_plugins.metrics.answers import task_of

        task = task_of(run.loss, run.data)
        if evaluated is None or evaluated.prediction is None or task is None:
            return []
        errors = Errors(task, run.data.unscale or (lambda values: values), (split,))
        errors.update(evaluated.prediction, evaluated.target)
        shown = shown_of(run.data, split, task, errors.worst(_NUM_SHOWN))
        images = [Image(data=png_of(one), caption="\n".join(one.lines)) for one in shown]
        return [Pictures(title=f"Worst predictions of the {split} split", images=images)]

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new images: a file, a folder, or the files that a table names."""
        from hookline_plugins.data.images.predictor import ImagePredictor
        from hookline_plugins.data.images.reading import pillow

        pillow()
        return ImagePredictor(data, self.column, leaves_empty=self.faulty == "empty")

    def _listing(self, faults: Faults) -> Listing:
        from hookline_plugins.data.images.listing import is_table, list_folder, list_table

        if not is_table(self.path) or self.path.is_dir():
            return list_folder(self.path, faults)
        targets = (self.target,) if isinstance(self.target, str) else self.target
        return list_table(self.path, (self.column, targets, self.split_column), faults)

    def _keeps(self, listing: Listing, form: Form) -> bool:
        """Return whether the pixels are kept in memory."""
        return _num_bytes(listing, form) <= _LARGE_BYTES if self.in_memory == "auto" else self.in_memory

    def _form(self, headers: Sequence[Header | None], faults: Faults) -> Form | None:
        """Return the form of all images; None, with a fault, if they have different sizes."""
        from hookline_plugins.data.images.reading import Form

        found = [header for header in headers if header is not None]
        if not found:
            return None
        kinds = {header.kind for header in found}
        mode: Mode = "rgb" if "rgb" in kinds else "grey16" if "grey16" in kinds else "grey"
        mode = mode if self.mode == "auto" else self.mode
        channels = 3 if mode == "rgb" else 1
        if len(self.mean) not in (0, channels):
            faults.add(f"`mean` and `std` have {len(self.mean)} values, but the images {channels} channels")
        sizes = Counter(header.size for header in found)
        if self.size is None and len(sizes) > 1:
            shown = ", ".join(f"{height} x {width} ({count:,})" for (height, width), count in sizes.most_common(3))
            more = f" and {len(sizes) - 3:,} more" if len(sizes) > 3 else ""
            height, width = sizes.most_common(1)[0][0]
            hint = f"set `size`, for example to [{height}, {width}]"
            faults.add(f"the images have {len(sizes):,} different sizes: {shown}{more}", hint=hint)
            return None
        return Form(mode, self.size or next(iter(sizes)), self.resize)

    def _targets(self, listing: Listing, faults: Faults) -> tuple[Targets, Mapping[str, list[int]]]:
        """Return the targets by split, and the numbers of the images of each split.

        Raises:
            DataError: If they cannot be used; carries every fault.
        """
        import numpy as np

        from hookline_plugins.data.images.listing import check_classes
        from hookline_plugins.data.targets import read_targets

        columns = {name: np.asarray(values) for name, values in listing.targets.items()}
        given: Any = columns if len(columns) > 1 else next(iter(columns.values()))
        whole = read_targets({"train": ("the targets", given)}, self.task, faults)
        faults.check()
        assert whole is not None, "targets that cannot be read are a fault"
        names = tuple(columns)
        if whole.labels is not None and self.standardize_target:
            faults.stop("the targets are classes, which cannot be standardized", hint="set task = 'regression'")
        rows = self._rows(listing, whole, faults)
        faults.check()
        if whole.labels is not None:
            check_classes(listing, rows, faults)
            faults.check()
        values = {split: whole.values["train"][numbers] for split, numbers in rows.items()}
        return whole._replace(values=values, names=names), rows

    def _rows(self, listing: Listing, targets: Targets, faults: Faults) -> dict[str, list[int]]:
        """Return the numbers of the images of each split: as given, and shares of the training split."""
        import torch

        from hookline_plugins.data.splits import FOLD, STANDARD, Key, chosen_rows

        splits = listing.splits or ["train"] * len(listing.names)
        given: dict[str, list[int]] = {
            name: [number for number, split in enumerate(splits) if split == name]
            for name in ("train", "validation", "test")
            if name in splits
        }
        shares = dict(zip(("validation", "test"), self.split[1:], strict=False))
        if both := sorted(shares.keys() & given.keys()):
            hint = "leave `split` out, or move these images"
            faults.add(f"`split` asks for a {both[0]} split, but there are images of one already", hint=hint)
        if "train" not in given:
            faults.add("there are no images of the training split")
        faults.check()
        if not (shares or self.fold):
            return given
        own = torch.tensor(given.pop("train"))
        generator = torch.Generator().manual_seed(self.split_seed)
        values = torch.from_numpy(targets.values["train"])[own]
        classes = None
        if targets.labels is not None:
            names = [str(label) for label in targets.labels.tolist()]
            classes = Key(next(iter(listing.targets)), values.flatten().long(), names)
        parts = chosen_rows(len(own), shares, self, classes, generator, faults)
        found = {split: own[rows].tolist() for split, rows in parts.items()} | given
        return {name: found[name] for name in (*STANDARD, FOLD) if name in found}

    def _pictures(
        self, listing: Listing, rows: Mapping[str, list[int]], form: Form, faults: Faults
    ) -> dict[str, Pictures]:
        from hookline_plugins.data.images.dataset import Pictures, read_all

        is_kept = self._keeps(listing, form)
        if is_kept:
            faults.check_memory(_num_bytes(listing, form), f"{len(listing.names):,} images in memory")
        pictures = {}
        for split, numbers in rows.items():
            names = [listing.names[number] for number in numbers]
            pixels = read_all(listing.root, names, form, faults) if is_kept else None
            pictures[split] = Pictures(listing.root, names, form, pixels)
        faults.check()
        return pictures

    def _prepared(self, train: Pictures, form: Form) -> tuple[Preparation, dict[str, Any]]:
        """Return the preparation of all pixels, and what new images need of it."""
        from hookline_plugins.data.images.preparation import Preparation, statistics_of

        mean, std = list(self.mean), list(self.std)
        if not mean:
            step = 1 if train.pixels is not None else -(-len(train) // _MEASURED)
            mean, std = statistics_of((train.one(index)[None] for index in range(0, len(train), step)), form.peak)
        kept = {"mode": form.mode, "size": list(form.size), "resize": form.resize, "mean": mean, "std": std}
        return Preparation(form.peak, mean, std), kept

    def _source(
        self,
        pictures: Mapping[str, Pictures],
        values: Mapping[str, Any],
        targets: Targets,
        preparation: Preparation,
        kept: dict[str, Any],
    ) -> DataSource:
        from hookline_plugins.data.forms import as_tensor
        from hookline_plugins.data.images.dataset import AugmentedDataset, ImageDataset
        from hookline_plugins.data.images.preparation import unscale_of
        from hookline_plugins.data.splits import named

        outputs: dict[str, Tensor] = {split: as_tensor(array) for split, array in values.items()}
        unscale = unscale_of(outputs["train"]) if self.standardize_target else None
        if unscale:
            outputs = {split: (values.double() - unscale.mean) / unscale.scale for split, values in outputs.items()}
            kept |= {"target_mean": unscale.mean.tolist(), "target_scale": unscale.scale.tolist()}
        datasets: dict[str, Any] = {
            split: ImageDataset(found, outputs[split], preparation) for split, found in pictures.items()
        }
        if self._operations:
            datasets["train"] = AugmentedDataset(datasets["train"], self._operations, preparation)
        for split, found in pictures.items():
            with_origins(datasets[split], found.names, "file")
        labels = None if targets.labels is None else targets.labels.tolist()
        return DataSource(
            **named(datasets),
            out_features=len(labels) if labels and targets.task == "classification" else outputs["train"].shape[1],
            target_names=targets.names,
            class_names=tuple(map(str, labels or ())),
            task=targets.task,
            kept=kept,
            unscale=unscale,
        )


def _num_bytes(listing: Listing, form: Form) -> int:
    return len(listing.names) * math.prod(form.shape) * int(form.dtype().itemsize)
