"""Predictor of the data source ``images``: new images in the form of those of the training.

Imported only for predictions, because it needs torch. Shapes: ``B`` or ``N`` images, ``C`` channels, ``H`` rows, ``W``
columns, ``O`` values predicted for an image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from hookline import DataError, Location
from hookline.trained import Exportable, RawInput
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.images.listing import Listing, check_folder, images_below, is_table, list_table
from hookline_plugins.data.images.options import Mode, Resize
from hookline_plugins.data.images.preparation import Preparation
from hookline_plugins.data.images.reading import (
    Form,
    problem_of,
    read_header,
    read_pixels,
    refusing_bombs,
)
from hookline_plugins.data.predictions import (
    NO_CLASSES,
    PROBLEM,
    WRITERS,
    class_columns,
    classes_of,
    left_empty,
    number_columns,
)
from hookline_plugins.data.tables.scaling import Unscale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hookline import DataSource
    from hookline_plugins.data.images.reading import Pixels

_PIXELS = "pixels"
"""Name of the input of an exported model."""


class Kept(msgspec.Struct):
    """The values that ``Images`` keeps for new images, as read from the description of the data of a run."""

    mode: Mode
    size: tuple[int, int]
    resize: Resize
    mean: list[float]
    std: list[float]
    target_mean: list[float] = []
    target_scale: list[float] = []

    @classmethod
    def of(cls, data: DataSource) -> Kept:
        """Return those of a data source.

        Raises:
            DataError: If they are missing or of another form.
        """
        try:
            return msgspec.convert(dict(data.kept), cls)
        except msgspec.ValidationError as error:
            raise DataError(f"the description of the images, saved with the run, cannot be used: {error}") from error

    @property
    def form(self) -> Form:
        """The form of the pixels."""
        return Form(self.mode, self.size, self.resize)

    def preparation(self) -> Preparation:
        """Return the preparation of the pixels."""
        return Preparation(self.form.peak, self.mean, self.std)


class ImagePredictor:
    """Predictor for image files.

    Args:
        data: The training data, as stored with the run.
        column: The column of a table with the paths.
        leaves_empty: Whether the predictions of images that cannot be read are left empty; otherwise they are faults.

    Attributes:
        preparation: The module from pixels ``[B, C, H, W]`` to inputs of the model.
    """

    writers = WRITERS

    def __init__(self, data: DataSource, column: str, *, leaves_empty: bool) -> None:
        self._data, self._column, self._leaves_empty = data, column, leaves_empty
        self._kept = Kept.of(data)
        self.preparation = self._kept.preparation()
        kept, values = self._kept, partial(torch.tensor, dtype=torch.float64)
        self._unscale = Unscale(values(kept.target_mean), values(kept.target_scale)) if kept.target_scale else None
        self._beside: dict[str, Sequence[str | None]] = {}

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        """Yield the inputs for an image file, for the images below a folder, or for those that a table names.

        Raises:
            DataError: If images cannot be read; carries every fault.
        """
        faults = Faults(path)
        listing = self._listing(path, faults)
        for first in range(0, len(listing.names), batch_size):
            names = listing.names[first : first + batch_size]
            pixels, problems = self._read(listing.root, names, faults)
            self._beside = {"path": list(names)} | ({PROBLEM: problems} if self._leaves_empty else {})
            if not faults.has_any:  # after a fault the rest is still read, for its own
                yield self.preparation.of_rows(pixels)
        faults.check()

    def beside(self) -> Mapping[str, Sequence[Any]]:
        """Return the paths of the last batch, and why images could not be read if they are left empty."""
        return self._beside

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return the predicted class and the probability of each, or a column of numbers for each target."""
        data = self._data
        found: Mapping[str, Sequence[Any]]
        if data.class_names:
            found = class_columns(prediction, data.target_names[0], data.class_names, is_binary=self._is_binary)
        else:
            found = number_columns(prediction, data.target_names, self._unscale)
        return left_empty(found, self._beside.get(PROBLEM, ()))

    def exportable(self, model: nn.Module) -> Exportable:
        """Return the model for pixels ``[B, C, H, W]`` of the training's size, from 0 to the largest value."""
        from hookline_plugins.data.exported import RawModel, outputs_of, units_of

        form, names = self._kept.form, self._data.class_names
        height, width, channels = form.shape
        raw = RawInput(_PIXELS, "uint8" if form.dtype is np.uint8 else "int32", (channels, height, width))
        module = RawModel(_Prepared(self.preparation), model, units_of(names, self._unscale, is_binary=self._is_binary))
        return Exportable(module, (raw,), outputs_of(self._data, names), partial(self._examples, raw))

    def _examples(self, raw: RawInput, count: int) -> tuple[dict[str, Tensor], Tensor, str]:
        peak, generator = self._kept.form.peak, torch.Generator().manual_seed(0)
        pixels = torch.randint(peak + 1, (count, *raw.shape), generator=generator, dtype=getattr(torch, raw.dtype))
        return {_PIXELS: pixels}, self.preparation(pixels), f"{count} images of random pixels"

    def predict(
        self, model: Callable[[Tensor], Any], inputs: Any, batch_size: int, *, probabilities: bool = False
    ) -> NDArray[Any]:
        """Return labels ``[N]`` or numbers ``[N]`` or ``[N, O]`` for images; or the probability of each class.

        Args:
            model: Makes predictions for a batch of inputs.
            inputs: Paths of image files, or pixels of the size of the training, ``[N, C, H, W]``.
            batch_size: Largest number of images in a batch.
            probabilities: Whether to return ``[N, C]``.

        Raises:
            DataError: If they cannot be read; carries every fault.
        """
        if probabilities and not self._data.class_names:
            raise ValueError(NO_CLASSES)
        faults = Faults(None)
        pixels = self._given(inputs, faults)
        faults.check()
        parts = [pixels[first : first + batch_size] for first in range(0, max(len(pixels), 1), batch_size)]
        prediction = torch.cat([model(self.preparation.of_rows(part)) for part in parts])
        if self._data.class_names:
            names = self._data.class_names
            return classes_of(prediction, names, is_binary=self._is_binary, probabilities=probabilities)
        numbers = np.stack(list(self.columns(prediction).values()), axis=1)
        return numbers[:, 0] if numbers.shape[1] == 1 else numbers

    @property
    def _is_binary(self) -> bool:
        return self._data.task == "binary"

    def _listing(self, path: Path, faults: Faults) -> Listing:
        if path.is_file():
            if not is_table(path):
                return Listing(path.parent, [path.name])
            return list_table(path, (self._column, (), ""), faults, checks_files=not self._leaves_empty)
        check_folder(path, faults)
        listing = Listing(path)
        listing.names = list(images_below(path, listing.left_out))
        if not listing.names:
            faults.stop("the folder has no images")
        return listing

    def _read(self, root: Path, names: Sequence[str], faults: Faults) -> tuple[Pixels, list[str | None]]:
        """Return the pixels of images, and why one could not be read, whose pixels are 0."""
        form = self._kept.form
        pixels, problems = np.zeros((len(names), *form.shape), form.dtype), list[str | None]()
        with refusing_bombs():
            for number, name in enumerate(names):
                path, problem = root / name, None
                try:
                    read_header(path)
                    pixels[number] = read_pixels(path, form)
                except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways
                    problem = problem_of(error)
                    if not self._leaves_empty:
                        hint = "remove it, or set data.faulty=empty to leave its prediction empty"
                        faults.add(f"the image cannot be read: {problem}", location=Location(str(path)), hint=hint)
                problems.append(problem)
        return pixels, problems

    def _given(self, inputs: Any, faults: Faults) -> Pixels:
        """Return the pixels ``[N, H, W, C]`` of given images."""
        given = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
        if isinstance(given, list | tuple) and all(isinstance(one, str | os.PathLike) for one in given):
            names = [os.fspath(one) for one in given]
            return self._read(Path(), names, faults)[0]
        form = self._kept.form
        height, width, channels = form.shape
        pixels = np.asarray(given)
        if pixels.dtype.kind not in "iu" or pixels.shape[1:] != (channels, height, width):
            what = f"the inputs are {pixels.dtype} {list(pixels.shape)}"
            hint = "or pass the paths of image files"
            faults.stop(f"{what}, not pixels [N, {channels}, {height}, {width}] from 0 to {form.peak}", hint=hint)
        return np.moveaxis(pixels, 1, -1).astype(form.dtype)


class _Prepared(nn.Module):
    """The inputs of the model for pixels by name."""

    def __init__(self, preparation: nn.Module) -> None:
        super().__init__()
        self.preparation = preparation

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the inputs of the model."""
        prepared: Tensor = self.preparation(inputs[_PIXELS])
        return prepared
