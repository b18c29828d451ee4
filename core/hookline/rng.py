"""The random numbers of a run: streams that depend on its seed alone, kept apart from everybody else's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a seed for one named stream of a run, in [0, 2**63).

    Streams with different names are independent however close the seeds are, because the seed is a hash (BLAKE2b,
    RFC 7693) of all of them.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
    True
    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
    False
    """
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator for one named stream of a run."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


class RandomState:
    """A state for torch's global CPU generator that is swapped in while its owner works and out again after.

    Layers such as dropout draw from the global generator, and so does the program around a run. With a state of its
    own the run sees the same numbers whatever the program draws, and the program never notices the run.

    Example:
        >>> before = torch.get_rng_state()
        >>> state = RandomState(seed=0)
        >>> with state.active():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """

    def __init__(self, seed: int, *names: str | int) -> None:
        self._state = make_generator(seed, *names).get_state()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of the generator: uint8, as torch gives it."""
        return {"torch": self._state.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``state_dict`` gave."""
        self._state = state["torch"].clone()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give the global generator this state; afterwards keep what became of it and restore the one before."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            yield
        finally:
            self._state = torch.get_rng_state()
            torch.set_rng_state(outside)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore torch's global CPU generator afterwards, so that what is drawn inside is as if never drawn."""
    outside = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(outside)
