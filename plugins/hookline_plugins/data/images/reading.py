"""Image files -> pixels: 8 or 16 bits, grey or RGB, upright, of one size.

Shapes: ``H`` rows, ``W`` columns, ``C`` channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hookline import Location
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.images.options import Mode, Resize

    Pixels = NDArray[Any]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
"""Endings of the names of image files."""

_GREY = ("1", "L", "LA", "La")
_GREY16 = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 0x0112
"""Tag of the orientation in Exif 2.3, table 4; 5 to 8 exchange rows and columns."""
_DRAFT = 2
"""A JPEG file is decoded at the smallest scale that has twice the wanted size: that of Pillow's ``thumbnail``."""


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        kind: The smallest mode that holds its pixels.
        size: ``[H, W]``, once it is upright.
    """

    kind: Mode
    size: tuple[int, int]


@dataclass(frozen=True)
class Form:
    """The form of all pixels of a run.

    Attributes:
        mode: Grey or RGB of 8 bits, or grey of 16 bits.
        size: ``[H, W]``.
        resize: How an image of another shape gets this size.
    """

    mode: Mode
    size: tuple[int, int]
    resize: Resize = "crop"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the pixels of an image, ``[H, W, C]``."""
        return (*self.size, 3 if self.mode == "rgb" else 1)

    @property
    def dtype(self) -> Any:
        """Their dtype."""
        return np.uint16 if self.mode == "grey16" else np.uint8

    @property
    def peak(self) -> int:
        """The largest value of a pixel."""
        return int(np.iinfo(self.dtype).max)


def pillow() -> Any:
    """Return the package Pillow.

    Raises:
        PluginError: If it is not installed.
    """
    return optional_package("PIL", "the data source images needs Pillow,", "images")


def problem_of(error: Exception) -> str:
    """Return why an image cannot be read, without the name of the file."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = str(error).partition("\n")[0]
    return "it is no image that Pillow can read" if text.startswith("cannot identify") else text or type(error).__name__


def scan(paths: Sequence[Path], faults: Faults) -> list[Header | None]:
    """Return the header of each file; add a fault for each that cannot be read, and None."""
    found: list[Header | None] = []
    with refusing_bombs():
        for path in paths:
            try:
                found.append(read_header(path))
            except Exception as error:  # noqa: BLE001 - a damaged file fails in many ways
                faults.add(f"the image cannot be read: {problem_of(error)}", location=Location(str(path)), hint=_HINT)
                found.append(None)
    return found


_HINT = "replace or remove it"


@contextmanager
def refusing_bombs() -> Iterator[None]:
    """Make errors of Pillow's warnings of images with so many pixels that they may be an attack."""
    image = _module("Image")
    with warnings.catch_warnings():
        warnings.simplefilter("error", image.DecompressionBombWarning)
        yield


def read_header(path: Path) -> Header:
    """Return the header of an image file.

    Raises:
        Exception: Whatever Pillow raises for a file that is no image.
    """
    with _module("Image").open(path) as image:
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, which have no range")
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        kind: Mode = "grey" if image.mode in _GREY else "grey16" if image.mode in _GREY16 else "rgb"
        return Header(kind, (height, width))


def read_pixels(path: Path, form: Form) -> Pixels:
    """Return the pixels of an image file in a form, ``[H, W, C]``.

    Transparency is ignored, and of several frames the first is read.

    Raises:
        Exception: Whatever Pillow raises for a file that is no image, or a damaged one.
    """
    with _module("Image").open(path) as image:
        if image.format == "JPEG":
            image.draft(None, (_DRAFT * max(form.size),) * 2)
        if _orientation(image) > 1:
            _module("ImageOps").exif_transpose(image, in_place=True)
        if form.mode == "grey16":
            return _sixteen_bits(image, form)
        pixels = np.asarray(_resized(_eight_bits(image, "RGB" if form.mode == "rgb" else "L"), form))
    return pixels.reshape(form.shape)


def _orientation(image: Any) -> int:
    # Pillow decodes a whole PNG file to find a tag behind the pixels, where hardly any program writes it.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _eight_bits(image: Any, mode: str) -> Any:
    if image.mode in _GREY16:
        image = _module("Image").fromarray((_sixteen(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else Pillow warns
    return image if image.mode == mode else image.convert(mode)


def _sixteen_bits(image: Any, form: Form) -> Pixels:
    pixels = _sixteen(image) if image.mode in _GREY16 else np.asarray(image.convert("L"), dtype=np.uint16) * 257
    if pixels.shape != form.size:
        # Pillow does not resize 16 bits; as floating-point numbers they are exact.
        resized = np.asarray(_resized(_module("Image").fromarray(pixels.astype(np.float32)), form))
        pixels = np.clip(np.rint(resized), 0, form.peak)
    return pixels.astype(np.uint16, copy=False).reshape(form.shape)


def _sixteen(image: Any) -> Pixels:
    pixels = np.asarray(image)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() < 2**16:
        raise ValueError(f"it has pixels from {pixels.min()} to {pixels.max()}, which 16 bits do not hold")
    return pixels.astype(np.uint16, copy=False)


def _resized(image: Any, form: Form) -> Any:
    """Return an image of the wanted size, by bilinear interpolation over all pixels that a new one covers."""
    height, width = form.size
    if image.size == (width, height):
        return image
    bilinear = _module("Image").Resampling.BILINEAR
    if form.resize == "stretch":
        return image.resize((width, height), bilinear)
    if form.resize == "crop":
        scale = min(image.width / width, image.height / height)
        box_width, box_height = scale * width, scale * height
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        return image.resize((width, height), bilinear, (left, top, left + box_width, top + box_height))
    scale = min(width / image.width, height / image.height)
    inner = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    whole = _module("Image").new(image.mode, (width, height))
    whole.paste(image.resize(inner, bilinear), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return whole


def _module(name: str) -> Any:
    import importlib

    pillow()
    return importlib.import_module(f"PIL.{name}")
