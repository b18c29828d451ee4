"""Errors of code outside Hookline, with their place."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path

from hookline.engine.errors import error_text

_OWN = ("<", str(Path(__file__).parents[2]))
_LIBRARY = str(Path(dataclasses.__file__).parent)
"""Prefixes of file names to skip in a traceback: Hookline and the standard library, whose folder may hold packages."""


def describe_error(error: BaseException) -> str:
    """Return the type, text and place of an error raised by code outside Hookline.

    >>> try:
    ...     {}["gpu"]
    ... except KeyError as error:
    ...     print(describe_error(error).partition(" (")[0])
    KeyError: 'gpu'
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OWN)
        and ("site-packages" in frame.filename or not frame.filename.startswith(_LIBRARY))
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({error.filename}:{error.lineno})"
    return f"{error_text(error)}{where}"
