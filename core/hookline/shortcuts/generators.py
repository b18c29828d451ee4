"""Whether random numbers were drawn: noticed without copying the states of all generators."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import torch


class Bystanders:
    """The global generators of torch (on the CPU), Python and NumPy, which reading examples must not affect.

    Most datasets draw nothing. To notice it takes a fraction of the time of seeding the generators for each example.

    Example:
        >>> generators = Bystanders()
        >>> generators.keep()
        >>> generators.are_same()
        True
        >>> _ = random.random()
        >>> generators.are_same()
        False
        >>> generators.restore()
        >>> generators.are_same()
        True
    """

    def __init__(self) -> None:
        self._raw = b""
        self._numpy: Any = None

    def keep(self) -> None:
        """Store their states."""
        self._torch, self._python = torch.get_rng_state(), random.getstate()
        raw = _raw_state_of_numpy()
        # NumPy takes longer for a copy than for many batches. A stored normal number is not in the raw state.
        if not raw or raw != self._raw or self._numpy[_HAS_GAUSS]:
            self._raw, self._numpy = raw, np.random.get_state()

    def are_same(self) -> bool:
        """Return whether nothing was drawn since ``keep``; False as well if NumPy has another kind of generator."""
        is_same = self._raw and self._raw == _raw_state_of_numpy() and self._python == random.getstate()
        if not (is_same and torch.equal(self._torch, torch.get_rng_state())):
            return False
        return not self._numpy[_HAS_GAUSS] or np.random.get_state()[_HAS_GAUSS] == 1  # type: ignore[index] # a tuple

    def restore(self) -> None:
        """Restore the stored states."""
        torch.set_rng_state(self._torch)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


_HAS_GAUSS = 3
"""Index of the flag of a stored normal number in a state of NumPy."""
_RAW_BYTES = 625 * 4
"""Size of the state of a Mersenne Twister: 624 words and a position."""


def _raw_state_of_numpy() -> bytes:
    """Return the memory of NumPy's global generator; nothing if it is not the usual one."""
    generator: Any = np.random.get_bit_generator()  # type: ignore[attr-defined] # NumPy documents it
    if type(generator) is not np.random.MT19937:
        return b""
    return ctypes.string_at(generator.ctypes.state_address, _RAW_BYTES)
