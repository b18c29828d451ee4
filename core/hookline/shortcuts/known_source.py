"""Whether a function of torch is one whose inside is known here.

What leans on torch's inside asks first, and goes torch's own way where the answer is no: with a version of torch that
is not known yet, and where another library has put something in a function's place.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from types import CodeType, FunctionType
from typing import Any


def source_digest(*functions: Any) -> str | None:
    """Return the SHA-256 of the source of some functions; None when one has no source that can be read.

    The source is that of a function's own code, also where it says that it wraps another. An object that stands for a
    function, and may even show its code, is none.
    """
    if not all(type(function) is FunctionType for function in functions):
        return None
    try:
        return _digest(*(function.__code__ for function in functions))
    except OSError:  # no source beside it
        return None


@functools.cache
def _digest(*codes: CodeType) -> str:
    return hashlib.sha256("".join(map(inspect.getsource, codes)).encode()).hexdigest()
