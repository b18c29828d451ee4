"""Random changes of training images, by name.

An operation gets pixels and a function that draws numbers from [0, 1), and returns pixels of the same shape. Each
draws the same number of times for every image, so that changes do not shift the numbers of the next operation.

Shapes: ``H`` rows, ``W`` columns, ``C`` channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from hookline.engine import did_you_mean

if TYPE_CHECKING:
    from hookline_plugins.data.images.reading import Pixels

Draw = Callable[[], float]

_Share = Annotated[float, Meta(ge=0, le=1)]
_Range = tuple[Annotated[float, Meta(gt=0)], Annotated[float, Meta(gt=0)]]


class Operation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A random change of an image; its fields are its options."""

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return changed pixels ``[H, W, C]``."""
        raise NotImplementedError


class HorizontalFlip(Operation, frozen=True):
    """Exchange left and right with probability ``p``."""

    p: _Share = 0.5

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the pixels or their mirror image."""
        return pixels[:, ::-1] if draw() < self.p else pixels


class VerticalFlip(Operation, frozen=True):
    """Exchange top and bottom with probability ``p``."""

    p: _Share = 0.5

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the pixels or their mirror image."""
        return pixels[::-1] if draw() < self.p else pixels


class RandomCrop(Operation, frozen=True):
    """Add ``padding`` black rows and columns on each side, and cut out a part of the original size.

    He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2, with a padding of 4.
    """

    padding: Annotated[int, Meta(ge=1)] = 4

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the pixels, shifted by up to ``padding``."""
        height, width, channels = pixels.shape
        padding = self.padding
        padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), pixels.dtype)
        padded[padding : padding + height, padding : padding + width] = pixels
        top, left = math.floor(draw() * (2 * padding + 1)), math.floor(draw() * (2 * padding + 1))
        return padded[top : top + height, left : left + width]


class RandomResizedCrop(Operation, frozen=True):
    """Cut out a part of random area and aspect ratio, and resize it to the original size.

    ``scale`` is the range of its share of the area, ``ratio`` that of its aspect ratio. The defaults are those of
    Szegedy et al., "Going Deeper with Convolutions" (2015), section 6.
    """

    scale: _Range = (0.08, 1.0)
    ratio: _Range = (3 / 4, 4 / 3)

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the part, resized bilinearly."""
        height, width, _ = pixels.shape
        part_height, part_width = _part(pixels, self.scale, self.ratio, draw)
        top, left = draw() * (height - part_height), draw() * (width - part_width)
        box = (left, top, left + part_width, top + part_height)
        return _by_pillow(pixels, lambda image, pil: image.resize((width, height), pil.Resampling.BILINEAR, box))


class Affine(Operation, frozen=True):
    """Turn by up to ``degrees``, shift by up to ``translate`` of the size, and scale by a factor from ``scale``."""

    degrees: Annotated[float, Meta(ge=0, le=180)] = 10.0
    translate: _Share = 0.0
    scale: _Range = (1.0, 1.0)

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the moved pixels, interpolated bilinearly; black where there are none."""
        height, width, _ = pixels.shape
        angle = math.radians(_between((-self.degrees, self.degrees), draw))
        factor = _between(self.scale, draw)
        shift = [_between((-self.translate, self.translate), draw) * size for size in (width, height)]
        middle = width / 2, height / 2
        cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
        # For each new pixel the place of the old one, as Pillow takes it.
        x0, y0 = middle[0] + shift[0], middle[1] + shift[1]
        matrix = (cos, sin, middle[0] - cos * x0 - sin * y0, -sin, cos, middle[1] + sin * x0 - cos * y0)
        return _by_pillow(
            pixels,
            lambda image, pil: image.transform((width, height), pil.Transform.AFFINE, matrix, pil.Resampling.BILINEAR),
        )


class ColorJitter(Operation, frozen=True):
    """Change brightness, contrast and saturation by factors from ``1 - x`` to ``1 + x``, in this order."""

    brightness: _Share = 0.2
    contrast: _Share = 0.2
    saturation: _Share = 0.2

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return pixels of other colours."""
        brightness, contrast, saturation = (
            _between((1 - share, 1 + share), draw) for share in (self.brightness, self.contrast, self.saturation)
        )
        values = pixels.astype(np.float32) * np.float32(brightness)
        grey = values @ _LUMA if values.shape[2] == 3 else values[:, :, 0]
        values = _blended(values, grey.mean(), contrast)
        if values.shape[2] == 3:
            values = _blended(values, (values @ _LUMA)[:, :, None], saturation)
        return _as(pixels.dtype, values)


_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Shares of red, green and blue in the brightness: ITU-R BT.601."""


class Erase(Operation, frozen=True):
    """Make a rectangle black with probability ``p``: of a share ``scale`` of the area, and an aspect ratio ``ratio``.

    Zhong et al., "Random Erasing Data Augmentation" (2020), whose defaults these are for all but the colour.
    """

    p: _Share = 0.5
    scale: _Range = (0.02, 0.4)
    ratio: _Range = (0.3, 1 / 0.3)

    def apply(self, pixels: Pixels, draw: Draw) -> Pixels:
        """Return the pixels with the rectangle."""
        is_wanted = draw() < self.p
        height, width = (round(size) for size in _part(pixels, self.scale, self.ratio, draw))
        top = math.floor(draw() * (pixels.shape[0] - height + 1))
        left = math.floor(draw() * (pixels.shape[1] - width + 1))
        if not is_wanted:
            return pixels
        erased = pixels.copy()
        erased[top : top + height, left : left + width] = 0
        return erased


OPERATIONS: Mapping[str, type[Operation]] = {
    "random-crop": RandomCrop,
    "random-resized-crop": RandomResizedCrop,
    "horizontal-flip": HorizontalFlip,
    "vertical-flip": VerticalFlip,
    "affine": Affine,
    "color-jitter": ColorJitter,
    "erase": Erase,
}
"""The operations by name."""


def operations(table: Mapping[str, Any]) -> tuple[Operation, ...]:
    """Return the operations that a table of the config names, in its order.

    Raises:
        ValueError: If a name or an option is unknown, or a value not allowed; names each of them.

    Example:
        >>> operations({"horizontal-flip": {"p": 1.0}})
        (HorizontalFlip(p=1.0),)
    """
    made, problems = [], []
    for name, options in table.items():
        if name not in OPERATIONS:
            problems.append(f"{name!r} is unknown; {did_you_mean(name, OPERATIONS)}")
            continue
        try:
            made.append(msgspec.convert(options, OPERATIONS[name]))
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ValueError(f"`augment`: {'; '.join(problems)}")
    return tuple(made)


def _between(ends: tuple[float, float], draw: Draw) -> float:
    return ends[0] + (ends[1] - ends[0]) * draw()


def _part(pixels: Pixels, scale: _Range, ratio: _Range, draw: Draw) -> tuple[float, float]:
    """Return height and width of a part of an image; the logarithm of its aspect ratio is drawn uniformly."""
    height, width, _ = pixels.shape
    area = height * width * _between(scale, draw)
    aspect = math.exp(_between((math.log(ratio[0]), math.log(ratio[1])), draw))
    return min(math.sqrt(area / aspect), height), min(math.sqrt(area * aspect), width)


def _blended(values: Any, other: Any, factor: float) -> Any:
    return values * np.float32(factor) + other * np.float32(1 - factor)


def _as(dtype: Any, values: Any) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)
    return rounded


def _by_pillow(pixels: Pixels, change: Callable[[Any, Any], Any]) -> Pixels:
    """Return pixels changed by Pillow: as an image of 8 bits, or as floating-point numbers where they have 16."""
    from PIL import Image

    plain = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(plain if pixels.dtype == np.uint8 else plain.astype(np.float32)))
    changed = np.asarray(change(image, Image)).reshape(pixels.shape)
    return changed if pixels.dtype == np.uint8 else _as(pixels.dtype, changed)
