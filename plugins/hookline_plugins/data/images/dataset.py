"""The datasets of images: kept in memory, or read from their files when they are needed.

Imported only when they are made, because they need torch. Shapes: ``N`` images, ``B`` of a batch, ``H`` rows, ``W``
columns, ``C`` channels, ``O`` targets.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from hookline import DataError, Location
from hookline_plugins.data.images.reading import Form, problem_of, read_pixels

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.images.augmenting import Operation
    from hookline_plugins.data.images.preparation import Preparation
    from hookline_plugins.data.images.reading import Pixels

_SAMPLED = 64
"""Number of files whose content is in a fingerprint: enough to notice other data, few enough to cost nothing."""


class Pictures:
    """Images in one form.

    Args:
        root: The folder in which the names begin.
        names: Their files, as paths in ``root``.
        form: Their form.
        pixels: Their pixels, if they are kept in memory, ``[N, H, W, C]``.
    """

    def __init__(self, root: Path, names: Sequence[str], form: Form, pixels: Pixels | None = None) -> None:
        self.root, self.names, self.form, self.pixels = root, names, form, pixels

    def __len__(self) -> int:
        return len(self.names)

    def one(self, index: int) -> Pixels:
        """Return the pixels of an image, ``[H, W, C]``.

        Raises:
            DataError: If it cannot be read.
        """
        if self.pixels is not None:
            found: Pixels = self.pixels[index]
            return found
        path = self.root / self.names[index]
        try:
            return read_pixels(path, self.form)
        except Exception as error:
            # The name in the message as well: a run shows the first line in many places.
            raise DataError(f"{path}: {problem_of(error)}", hint="replace or remove it") from error

    def many(self, indices: Any) -> Pixels:
        """Return the pixels of images with these indices, an integer array ``[B]``: ``[B, H, W, C]``."""
        if self.pixels is not None:
            found: Pixels = self.pixels[indices]
            return found
        return np.stack([self.one(index) for index in indices])


def read_all(root: Path, names: Sequence[str], form: Form, faults: Faults) -> Pixels:
    """Return the pixels of all images, ``[N, H, W, C]``; add a fault for each that cannot be read."""
    pixels = np.zeros((len(names), *form.shape), form.dtype)

    def read(number: int) -> Exception | None:
        try:
            pixels[number] = read_pixels(root / names[number], form)
        except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways
            return error
        return None

    with ThreadPoolExecutor() as threads:
        for name, error in zip(names, threads.map(read, range(len(names))), strict=True):
            if error is not None:
                what = f"the image cannot be read: {problem_of(error)}"
                faults.add(what, location=Location(str(root / name)), hint="replace or remove it")
    return pixels


class ImageDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images as inputs, float32 ``[C, H, W]``, with their targets.

    Args:
        pictures: The images.
        targets: Class indices ``[N]`` or numbers ``[N, O]``.
        preparation: Makes inputs of pixels.
    """

    def __init__(self, pictures: Pictures, targets: Tensor, preparation: Preparation) -> None:
        self.pictures, self.targets = pictures, targets
        self._prepared = preparation.of_rows

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._prepared(self.pictures.one(range(len(self))[index])), self.targets[index]

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples with these indices, as a batch."""
        return self._prepared(self.pictures.many(indices.numpy())), self.targets[indices]

    def fingerprint(self) -> str:
        """Return a hash of names, sizes of files, targets and some contents, to recognize changed data."""
        digest, pictures = hashlib.sha256(), self.pictures
        step = max(len(pictures) // _SAMPLED, 1)
        for number, name in enumerate(pictures.names):
            path = pictures.root / name
            content = path.read_bytes() if number % step == 0 else b""
            digest.update(f"{name} {path.stat().st_size} ".encode(errors="surrogateescape") + content)
        digest.update(self.targets.numpy().tobytes())
        return digest.hexdigest()


class AugmentedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images that change each time they are read, by operations that draw from Python's global generator.

    It has no ``gather``: a run seeds the generator for each example, so that it is the same in any batch.

    Args:
        dataset: The images.
        operations: The operations, in their order.
        preparation: Makes inputs of pixels.
    """

    def __init__(self, dataset: ImageDataset, operations: Sequence[Operation], preparation: Preparation) -> None:
        self.pictures, self.targets = dataset.pictures, dataset.targets
        self.fingerprint = dataset.fingerprint
        self._changes = [operation.apply for operation in operations]
        self._target_of = list(dataset.targets.unbind())  # indexing a tensor takes longer
        self._prepared = preparation.of_rows

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self.pictures.one(range(len(self))[index])
        for change in self._changes:
            pixels = change(pixels, random.random)
        return self._prepared(pixels), self._target_of[index]
