"""Versions of file formats, and the errors of files that cannot be decoded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from hookline.engine.errors import HooklineError

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are not JSON of the expected form."""


Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its offset from UTC: those with and without one cannot be compared."""


class _Versioned(msgspec.Struct):
    format: int


def format_of(text: bytes) -> int:
    """Return the ``format`` of a JSON object, ignoring its other fields, which may be those of a later format.

    Raises:
        NOT_JSON: When it has none.
    """
    return msgspec.json.decode(text, type=_Versioned).format


def check_format(number: int | None, supported: int, where: str, error: type[HooklineError]) -> None:
    """Check that this version of Hookline reads the format of a file.

    Raises:
        HooklineError: An ``error``, when it does not.
    """
    if number != supported:
        hint = "use the version of Hookline that wrote it"
        raise error(f"{where} has format {number}, but this Hookline reads format {supported}", hint=hint)
