"""Short texts of values, for the lines of a trace or a proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MAX_CHARACTERS = 60
"""Maximum length of such a text."""


def cut(text: str) -> str:
    """Return a text, cut to 60 characters.

    >>> cut("a" * 61) == "a" * 57 + "..."
    True
    """
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 3]}..."


def form(value: Tensor | np.ndarray[Any, Any] | np.generic) -> str:
    """Return the dtype and the shape of a tensor or an array.

    >>> import torch
    >>> form(torch.zeros(2, 3))
    'float32 [2, 3]'
    """
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
