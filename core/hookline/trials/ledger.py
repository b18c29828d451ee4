"""``Ledger``: the time that each hook of each plugin takes."""

from __future__ import annotations

import functools
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline.engine.plugin.observer import Observer

if TYPE_CHECKING:
    from hookline.engine.plugin.member import Member
    from hookline.engine.view import Row


# ---- ledger ----------------------------------------------------------------------------------------------------------


_EACH_STEP = "each step"
"""Replaces the name of a hook in the row of a step, or of a wrapper of it."""


@dataclass
class _Account:
    """Cost of one hook of one plugin."""

    calls: int = 0
    plain_calls: int = 0
    plain_s: float = 0.0
    probed_s: float = 0.0
    is_step: bool = False
    synchronises: bool = False
    draws: bool = False

    def add(self, seconds: float, *, is_probed: bool) -> None:
        self.calls += 1
        if is_probed:
            self.probed_s += seconds
        else:
            self.plain_calls += 1
            self.plain_s += seconds

    @property
    def seconds(self) -> float:
        """Total time; a probed call counts as long as a plain one, if there are plain ones."""
        return self.plain_s / self.plain_calls * self.calls if self.plain_calls else self.probed_s


class Ledger(Observer):
    """Measures the cost of each hook of each plugin in a run, and of the loop without them.

    About every second call of a hook is probed: does it make an accelerator wait, by reading a value of a tensor or
    copying one between devices? Probing slows the operations down, so the time is taken from the other calls. The
    callable from ``build_step`` is measured in each step, a wrapper without the callable that it wraps. Operations that
    a wrapper of ``build_model`` adds to the model count as the loop's.

    Example:
        >>> from hookline import Run, load_config
        >>> ledger = Ledger()
        >>> _ = Run(load_config({"train": {"epochs": 1}}), observers=[ledger]).fit()
        >>> [(row["table"], row["hook"]) for row in ledger.rows() if row["hook"] == "on_run_end"]
        [('data', 'on_run_end')]
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._inside_s = self._outside_s = self._begun = 0.0

    @property
    def loop_s(self) -> float:
        """Seconds from the start of the loop to its end, without the hooks."""
        steps_s = sum(account.plain_s for account in self._accounts.values() if account.is_step)
        return self._outside_s + steps_s

    @property
    def num_steps(self) -> int:
        """Number of steps taken."""
        return max((account.calls for (_, hook), account in self._accounts.items() if hook == _EACH_STEP), default=0)

    def rows(self) -> list[Row]:
        """Return a row for each hook that was called, the most expensive first.

        The keys are ``table``, ``hook``, ``calls``, ``seconds``; ``us_per_step``, microseconds per step of the run, and
        ``percent`` of the loop without hooks, both None for a build hook; ``synchronises``, whether it made an
        accelerator wait, or would have; and ``draws``, whether it drew from a global random generator (of torch, NumPy
        or Python).
        """
        hooks = [(key, account) for key, account in self._accounts.items() if not account.is_step]
        return [
            {
                "table": table,
                "hook": hook,
                "calls": account.calls,
                "seconds": account.seconds,
                **self._shares(hook, account.seconds),
                "synchronises": account.synchronises,
                "draws": account.draws,
            }
            for (table, hook), account in sorted(hooks, key=lambda item: -item[1].seconds)
        ]

    def _shares(self, hook: str, seconds: float) -> dict[str, float | None]:
        if hook.startswith("build_") or not self.num_steps:
            return {"us_per_step": None, "percent": None}
        return {"us_per_step": seconds / self.num_steps * 1e6, "percent": seconds / self.loop_s * 100}

    def begin(self) -> None:
        """Start the clock of the loop."""
        self._inside_s = 0.0
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Stop the clock of the loop."""
        self._outside_s += time.perf_counter() - self._begun - self._inside_s

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - the arguments do not affect the cost
        """Call a hook, and record its time."""
        account = self._accounts.setdefault((member.table, hook), _Account())
        # While the run is built the global generator is the run's own: draws are fine.
        is_event = hook.startswith("on_")
        before = _random_states() if is_event else None
        try:
            return self._timed(account, run, is_probed=is_event and _is_looked_into(account.calls))
        finally:
            account.draws |= is_event and _random_states() != before

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:
        """Return a step with a clock around it; any other result as it is."""
        if hook != "build_step" or result is None:
            return result
        account = self._accounts.setdefault((member.table, _EACH_STEP), _Account(is_step=not is_wrapper))

        def step(batch: Any) -> Any:
            return self._timed(account, lambda: result(batch), is_probed=False)

        return step

    def _timed(self, account: _Account, run: Callable[[], Any], *, is_probed: bool) -> Any:
        """Call ``run``, and record its time without that of nested calls that are recorded themselves."""
        entered = time.perf_counter()
        outer_s, self._inside_s = self._inside_s, 0.0
        try:
            with _probe_class()(account) if is_probed else nullcontext():
                start = time.perf_counter()
                try:
                    return run()
                finally:
                    account.add(time.perf_counter() - start - self._inside_s, is_probed=is_probed)
        finally:
            self._inside_s = outer_s + time.perf_counter() - entered


@functools.cache
def _probe_class() -> Callable[[_Account], AbstractContextManager[object]]:
    """Return the class of the probe for operations that make an accelerator wait. Imports torch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Probe(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it unannotated
        def __init__(self, account: _Account) -> None:
            super().__init__()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            self._account = account

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, device = str(function), (kwargs or {}).get("device")
            self._account.synchronises |= name in _WAITING or (
                name == "aten._to_copy.default" and device is not None and device != args[0].device
            )
            return function(*args, **(kwargs or {}))

    return Probe


_WAITING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"}
"""Operations of torch that need a value before they return."""


def _is_looked_into(number: int) -> bool:
    # About every second call, out of step with any period of a hook: the golden ratio fits none.
    return number * 0.6180339887 % 1 < 0.5


def _random_states() -> tuple[object, ...]:
    import torch

    numpy_random: Any = sys.modules.get("numpy.random")
    of_numpy = numpy_random.get_state() if numpy_random else None
    numbers = (of_numpy[1].tobytes(), of_numpy[2]) if of_numpy else None
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numbers
