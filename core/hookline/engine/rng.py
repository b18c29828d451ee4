"""Random streams derived from the seed of a run, and the swap of global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

_Generator = tuple[Callable[[], Any], Callable[[Any], object]]
"""The functions that return and set the state of a global generator."""


def derive_seed(seed: int, *names: str | int) -> int:
    """Return the seed of a named stream of a run, in [0, 2**63).

    Streams with different names are independent even if the seeds of the runs are close, because the result is a hash
    (BLAKE2b, RFC 7693) of all of them.

    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 1)
    True
    >>> derive_seed(0, "order", 1) == derive_seed(0, "order", 2)
    False
    """
    return int.from_bytes(hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest(), "big") >> 1


def make_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator for a named stream of a run."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


class RandomMark:
    """Snapshot of torch's global generators: that of the CPU, and those of ``devices``.

    Example:
        >>> mark = RandomMark()
        >>> first = torch.rand(3)
        >>> mark.restore()
        >>> bool((torch.rand(3) == first).all())
        True
    """

    def __init__(self, *devices: torch.device) -> None:
        self._generators = _torch_generators(*devices)
        self._states = _states_of(self._generators)

    def restore(self) -> None:
        """Restore the snapshot."""
        _set_states(self._generators, self._states)


class RandomState:
    """A state for torch's global generators, used instead of the current one while active.

    Layers such as dropout draw from the global generator of their device, and so does the program around a run. With
    separate states, neither affects the other. Covers the generator of the CPU, and that of ``device`` if it is
    another.

    Example:
        >>> before = torch.get_rng_state()
        >>> state = RandomState(seed=0)
        >>> with state.active():
        ...     _ = torch.rand(3)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """

    def __init__(self, seed: int, *names: str | int, device: torch.device | None = None) -> None:
        self._devices = ["cpu", *([device.type] if device and device.type != "cpu" else [])]
        number = derive_seed(seed, *names)
        self._generators = _torch_generators(*([device] if device else []))
        self._states: list[Any] = [torch.Generator(name).manual_seed(number).get_state() for name in self._devices]
        self._is_active = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Set the global generators to these states; afterwards store the new states and restore the previous ones."""
        if self._is_active:
            yield
            return
        outside = _states_of(self._generators)
        _set_states(self._generators, self._states)
        self._is_active = True
        try:
            yield
        finally:
            self._is_active = False
            self._states = _states_of(self._generators)
            _set_states(self._generators, outside)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of each generator, uint8 as in torch, by the type of its device."""
        states = _states_of(self._generators) if self._is_active else self._states
        return {name: state.clone() for name, state in zip(self._devices, states, strict=True)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load a state returned by ``state_dict``; a generator missing from it keeps its state.

        Raises:
            ValueError: When the state is not of the form of this version of torch.
        """
        states = self.state_dict()
        for name, current in states.items():
            given: Any = state.get(name, current)  # it may come from a file
            if not isinstance(given, torch.Tensor) or (given.dtype, given.shape) != (current.dtype, current.shape):
                message = f"the state of the random generator of {name} is not valid for torch {torch.__version__}"
                raise ValueError(message)
            states[name] = given.clone()
        self._states = list(states.values())


def _torch_generators(*devices: torch.device) -> list[_Generator]:
    found: list[_Generator] = [(torch.get_rng_state, torch.set_rng_state)]
    for device in devices:
        if device.type != "cpu":
            module = torch.get_device_module(device)
            index: int | None = device.index
            place = {} if index is None else {"device": device}  # not the current one, and MPS has a single one
            found.append((partial(module.get_rng_state, **place), partial(module.set_rng_state, **place)))
    return found


def _states_of(generators: list[_Generator]) -> list[Any]:
    return [get_state() for get_state, _ in generators]


def _set_states(generators: list[_Generator], states: list[Any]) -> None:
    for (_, set_state), state in zip(generators, states, strict=True):
        set_state(state)


@contextmanager
def in_run(random: RandomState) -> Iterator[None]:
    """Use the random state of a run, and compute gradients, whatever the settings of the surrounding program."""
    with random.active(), torch.inference_mode(mode=False), torch.enable_grad():
        yield


def seed_all(seed: int) -> None:
    """Seed the global generators of torch (on the CPU), Python and NumPy."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def preserved_rng() -> AbstractContextManager[None]:
    """Restore torch's global CPU generator afterwards."""
    return torch.random.fork_rng(devices=[])
