"""Recognize functions of torch by the digest of their source.

Code that relies on torch's internals checks it first, and otherwise calls torch as usual: with an unknown version of
torch, or where another library has replaced a function.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from types import CodeType, FunctionType
from typing import Any


def source_digest(*functions: Any) -> str | None:
    """Return the SHA-256 of the source of some functions; None when one has no source that can be read.

    The source is that of a function's own code, even if it declares that it wraps another. An object that replaces a
    function has none, even if it exposes the function's code.
    """
    if not all(type(function) is FunctionType for function in functions):
        return None
    try:
        return _digest(*(function.__code__ for function in functions))
    except OSError:  # no source file
        return None


@functools.cache
def _digest(*codes: CodeType) -> str:
    return hashlib.sha256("".join(map(inspect.getsource, codes)).encode()).hexdigest()
