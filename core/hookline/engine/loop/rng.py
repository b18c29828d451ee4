"""The random numbers of a run: streams that depend on its seed alone, kept apart from everybody else's."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

_States = tuple[torch.Tensor, Any, Any]


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
    """A state for torch's global generators that is swapped in while its owner works and out again after.

    Layers such as dropout draw from the global generator of their device, and so does the program around a run. With a
    state of its own the run sees the same numbers whatever the program draws, and the program never notices the run.
    It holds the generator of the CPU, and that of ``device`` if it is another.

    Example:
        >>> before = torch.get_rng_state()
        >>> state = RandomState(seed=0)
        >>> with state.active():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """

    def __init__(self, seed: int, *names: str | int, device: torch.device | None = None) -> None:
        self._devices = _with_cpu(device)
        number = derive_seed(seed, *names)
        self._states = [torch.Generator(device).manual_seed(number).get_state() for device in self._devices]
        self._is_active = False

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of each generator, uint8, as torch gives it, by the type of its device."""
        states = [_global_state(device) for device in self._devices] if self._is_active else self._states
        return {device.type: state.clone() for device, state in zip(self._devices, states, strict=True)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``state_dict`` gave; a generator that was not there keeps its state.

        Raises:
            ValueError: When it is not of the form that this version of torch has.
        """
        before = self.state_dict()
        for name, there in before.items():
            given: Any = state.get(name, there)  # it may come from a file
            if not isinstance(given, torch.Tensor) or (given.dtype, given.shape) != (there.dtype, there.shape):
                raise ValueError(f"the state of the random generator of {name} is none of torch {torch.__version__}")
        self._states = [state.get(device.type, before[device.type]).clone() for device in self._devices]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give the global generators these states; afterwards keep what became of them and restore those before."""
        outside = RandomMark(*self._devices)
        _set_states(self._devices, self._states)
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            self._states = [_global_state(device) for device in self._devices]
            outside.restore()


class RandomMark:
    """The states of torch's global generators, that of the CPU and those of ``devices``, to go back to.

    Example:
        >>> mark = RandomMark()
        >>> first = torch.rand(3)
        >>> mark.restore()
        >>> bool((torch.rand(3) == first).all())
        True
    """

    def __init__(self, *devices: torch.device) -> None:
        self._devices = _with_cpu(*devices)
        self._states = [_global_state(device) for device in self._devices]

    def restore(self) -> None:
        """Go back to these states."""
        _set_states(self._devices, self._states)


def _with_cpu(*devices: torch.device | None) -> list[torch.device]:
    return [torch.device("cpu"), *(device for device in devices if device and device.type != "cpu")]


def _set_states(devices: Sequence[torch.device], states: Sequence[torch.Tensor]) -> None:
    for device, state in zip(devices, states, strict=True):
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state)


def _global_state(device: torch.device) -> torch.Tensor:
    state = torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
    return cast(torch.Tensor, state)


@contextmanager
def in_run(random: RandomState) -> Iterator[None]:
    """Work with the random numbers of a run and with gradients, whatever the program around has set."""
    with random.active(), torch.inference_mode(mode=False), torch.enable_grad():
        yield


def seed_all(seed: int) -> None:
    """Seed the global generators of torch (on the CPU), Python and NumPy."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


class ReaderState:
    """States for the global generators of torch (on the CPU), Python and NumPy, swapped in while data are read.

    Datasets draw from all three. The states begin as ``seed`` makes them and are kept from one time to the next, so
    that what is drawn depends on the seed alone, and the program around never notices it.

    Example:
        >>> before = random.getstate()
        >>> state = ReaderState(seed=0)
        >>> with state.active():
        ...     _ = random.random()
        >>> random.getstate() == before
        True
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._states: _States | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Give the global generators these states; afterwards keep what became of them and restore those before."""
        outside = _global_states()
        if self._states is None:
            seed_all(self._seed)
        else:
            _set_global_states(self._states)
        try:
            yield
        finally:
            self._states = _global_states()
            _set_global_states(outside)


def _global_states() -> _States:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_global_states(states: _States) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore torch's global CPU generator afterwards, so that what is drawn inside is as if never drawn."""
    outside = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(outside)
