"""``Logged``: the numbers that plugins log, reduced over an interval of steps and over the epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from operator import add
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookline.engine.errors import ContractError
from hookline.engine.words import as_text, with_article

if TYPE_CHECKING:
    from hookline.engine.view import RunView

PREFIX = "logged/"
"""Prefix of a logged name among the metrics of an epoch."""


class Logged:
    """The numbers that plugins log. Tensors stay on an accelerator until an interval ends.

    Args:
        run: The run, for the names of its metrics.

    Attributes:
        pending: The numbers of the interval so far, by name; empty if nothing was logged.
    """

    def __init__(self, run: RunView) -> None:
        self._run = run
        self.pending: dict[str, _Reduced] = {}
        self._epoch: dict[str, _Reduced] = {}
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore values for a while: those of an evaluation are no part of the steps."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def add(self, name: Any, value: Any, reduce: str) -> None:
        """Add a value.

        Raises:
            TypeError: When the name is not text.
            ContractError: When the name is taken, the value is not a single number, or the reduction is another one.
        """
        if self._is_paused:
            return
        found = self.pending.get(name) if isinstance(name, str) else None
        if found is None or found.reduce != reduce:
            found = self._begin(as_text(name, "the name of a logged value"), reduce)
        if isinstance(value, Tensor) and not (value.shape or value.is_complex()):
            # On the CPU, reading a number does not wait. Elsewhere it is a copy, as the original may change.
            value = float(value.item()) if value.is_cpu else value.detach().to(torch.float64, copy=True)
        elif not isinstance(value, Real):
            got = f"{value.dtype} {[*value.shape]}" if isinstance(value, Tensor) else with_article(type(value).__name__)
            message = f"the logged value {name!r} must be a number or a tensor without dimensions, not {got}"
            raise ContractError(message, hint="log a number made from it, such as value.mean()")
        found.add(value if isinstance(value, Tensor) else float(value))

    def end_interval(self) -> dict[str, float]:
        """Return the reduced values of the interval on all ranks, and begin the next; wait once for the device."""
        ended, self.pending = self.pending, {}
        there = [one for one in ended.values() if isinstance(one.value, Tensor)]
        values = torch.stack([one.value.to(self._run.device) for one in there]).tolist() if there else ()
        for one, value in zip(there, values, strict=True):
            one.value = value
        if self._run.ranks.world_size > 1:
            ended = _joined(self._run.ranks.gather(_rows(ended)))
        for name, one in ended.items():
            if one.reduce != "last":  # of a moment, such as a speed: no part of what a resumed run repeats
                self._epoch.setdefault(name, _Reduced(one.reduce)).add(one.value, one.count)
        return {name: one.result() for name, one in ended.items()}

    def end_epoch(self) -> dict[str, float]:
        """Return the reduced values of all intervals of the epoch, as metrics of it, and begin the next."""
        ended, self._epoch = self._epoch, {}
        return {f"{PREFIX}{name}": one.result() for name, one in ended.items()}

    def state_dict(self) -> list[_Rows]:
        """Return the values so far, such that the results after a resume are the same to the last bit."""
        return [_rows(self.pending), _rows(self._epoch)]

    def load_state_dicts(self, states: Sequence[Sequence[_Rows]], epoch: _Rows) -> None:
        """Load the intervals of states returned by ``state_dict`` of some ranks, and an epoch, which all have."""
        self.pending, self._epoch = _joined(pending for pending, _ in states), _joined([epoch])

    def _begin(self, name: str, reduce: str) -> _Reduced:
        if name in ("epoch", "step", *self._run.metric_names) or name.startswith(PREFIX):
            raise ContractError(f"{name!r} cannot be logged: a metric has this name", hint="use another name")
        used = [part[name].reduce for part in (self.pending, self._epoch) if name in part]
        if reduce not in (used or _JOIN):
            message = f"{name!r} is logged with reduce={reduce!r}, but must be with {' or '.join(used[:1] or _JOIN)}"
            raise ContractError(message, hint="a name has one reduction" if used else None)
        return self.pending.setdefault(name, _Reduced(reduce))


class _Reduced:
    """Values of one name, reduced to one number: a tensor if they are on an accelerator."""

    def __init__(self, reduce: str, value: Any = None, count: int = 0) -> None:
        self.reduce, self.value, self.count = reduce, value, count

    def add(self, value: float | Tensor, count: int = 1) -> None:
        self.value = _JOIN[self.reduce](self.value, value) if self.count else value
        self.count += count

    def result(self) -> float:
        return float(self.value / self.count if self.reduce == "mean" else self.value)


def _rows(values: Mapping[str, _Reduced]) -> _Rows:
    return [[name, one.reduce, one.value, one.count] for name, one in values.items()]


def _joined(parts: Iterable[_Rows]) -> dict[str, _Reduced]:
    """Return the values of several ranks as one for each name; the last value is that of the first rank with one."""
    joined: dict[str, _Reduced] = {}
    for name, reduce, value, count in itertools.chain.from_iterable(parts):
        if reduce != "last" or name not in joined:
            joined.setdefault(name, _Reduced(reduce)).add(value, count)
    return joined


def _larger(own: float | Tensor, new: float | Tensor) -> Tensor:
    return torch.maximum(
        *(torch.as_tensor(value, dtype=torch.float64) for value in (own, new))
    )  # NaN is the larger one


_Rows = Sequence[Sequence[Any]]
_JOIN: dict[str, Any] = {"mean": add, "last": lambda _, new: new, "sum": add, "max": _larger}
