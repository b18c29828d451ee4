"""A contact sheet: images with captions in rows, as one PNG file.

Shapes: ``H`` rows, ``W`` columns, ``C`` channels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 128
"""Longer side of an image on the sheet, in pixels."""
_MARGIN = 8
_FONT = 12
_LINE = 15
"""Height of a line of text."""


class Shown(NamedTuple):
    """An image on a sheet.

    Attributes:
        pixels: Grey or RGB, uint8 ``[H, W, C]``.
        lines: The lines of its caption, which are cut to the width of the image.
    """

    pixels: NDArray[Any]
    lines: Sequence[str]


def contact_sheet(images: Sequence[Shown], title: str) -> bytes:
    """Return a PNG file with images, about as many in a row as there are rows.

    Raises:
        PluginError: If Pillow is not installed.
    """
    optional_package("PIL", "a contact sheet needs Pillow,", "images")
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT)
    columns = math.ceil(math.sqrt(len(images)))
    num_lines = max(len(shown.lines) for shown in images)
    width, height = _SIDE + 2 * _MARGIN, _SIDE + num_lines * _LINE + 2 * _MARGIN
    top = _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width, top + math.ceil(len(images) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _cut(title, font, sheet.width - 2 * _MARGIN), "black", font)
    for number, shown in enumerate(images):
        x, y = number % columns * width + _MARGIN, top + number // columns * height
        image = _scaled(shown.pixels)
        sheet.paste(image, (x + (_SIDE - image.width) // 2, y + (_SIDE - image.height) // 2))
        for line, text in enumerate(shown.lines):
            draw.text((x, y + _SIDE + line * _LINE), _cut(text, font, _SIDE), "black", font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def png_of(shown: Shown) -> bytes:
    """Return an image as a PNG file of the size that it has on a sheet."""
    optional_package("PIL", "an image needs Pillow,", "images")
    file = io.BytesIO()
    _scaled(shown.pixels).save(file, "PNG")
    return file.getvalue()


def _scaled(pixels: NDArray[Any]) -> Any:
    """Return an image whose longer side fits; small ones by a whole factor, so that each pixel is seen."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
    factor = _SIDE / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    return image.resize(size, Image.Resampling.BILINEAR)


def _cut(text: str, font: Any, width: int) -> str:
    """Return text that is at most so wide; of a longer one the end, which tells files apart."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
