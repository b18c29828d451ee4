"""Verdict of a proof of resume, and the error that reports where its two runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from hookline.engine.errors import CheckpointError, Fault
from hookline.trials.proof.losses import Lost
from hookline.trials.proof.seen import OUTSIDE

if TYPE_CHECKING:
    from hookline.trials.proof.differences import Difference, Tally


_MAX_SHOWN = 4
_SHIP = "docs/how-to/ship-state.md"
_UNREPEATABLE = "draw from torch, or from the generator run.generator(NAME): docs/explanation/random-numbers.md"
_OWNERS = {"model": "model", "wrappers": "model", "loss": "loss", "optimizer": "optimizer"}
"""Parts of a state, with the table of the plugin that owns each."""


@dataclass(frozen=True)
class Divergence:
    """The first place where the two runs differ.

    Attributes:
        where: The checkpoint or the file.
        differences: The differences there.
        is_before_kill: Whether the second run had not been killed yet.
        resumed_from: Number of steps from which it had last resumed; 0 if it had started anew.
        lost: Contents that plugins had not restored by then.
        draws: The hooks that draw from generators that belong to no run.
        plugins: Description of each table's plugin.
    """

    where: str
    differences: tuple[Difference, ...]
    is_before_kill: bool
    resumed_from: int
    lost: tuple[Lost, ...]
    draws: tuple[str, ...]
    plugins: Mapping[str, str]

    @property
    def first(self) -> Difference:
        """The first difference."""
        return self.differences[0]

    @property
    def owner(self) -> str | None:
        """The table of the plugin that most probably caused it; None if no plugin did."""
        if self._is_drawn:
            return self.draws[0].partition(" ")[0]
        if self.lost:
            return self.lost[0].table
        return _table_of(self.first)

    @property
    def _is_drawn(self) -> bool:
        """True if it comes from generators that belong to no run, as far as was recorded."""
        lost = self.lost[0].table if self.lost else OUTSIDE
        return bool(self.draws) and lost == OUTSIDE and (self.is_before_kill or bool(self.lost))

    def error(self) -> CheckpointError:
        """Return the error that reports it."""
        faults = [Fault(f"the first difference is in {self.where}: {self.first}"), *self._others()]
        if self.is_before_kill:
            message = "this run is not repeatable: two runs of it differ before either was interrupted"
            return CheckpointError(message, faults=[*faults, *self._causes()], hint=_UNREPEATABLE)
        message = "this run does not resume exactly"
        faults.append(Fault(f"the run had been killed, and resumed from step {self.resumed_from}"))
        hint = f"return all state of a plugin from state_dict, and restore it in load_state_dict: {_SHIP}"
        return CheckpointError(message, faults=[*faults, *self._causes()], hint=hint)

    def _others(self) -> list[Fault]:
        rest = [found.path for found in self.differences[1:]]
        shown = ", ".join(rest[:_MAX_SHOWN])
        more = f" and {len(rest) - _MAX_SHOWN} more" if len(rest) > _MAX_SHOWN else ""
        return [Fault(f"also different there: {shown}{more}")] if rest else []

    def _causes(self) -> Iterator[Fault]:
        owner = self.owner
        if owner is None:
            hint = "save states more often: --every-steps 1"
            yield Fault("no plugin owns it, and none was seen to lose state", hint=hint)
            return
        if self._is_drawn:
            drawn = f"it draws from {OUTSIDE}, which belong to no run: {', '.join(self.draws)}"
            yield Fault(f"owner: {self._named(owner)}: {drawn}")
            return
        yield Fault(f"owner: {self._named(owner)}: {self._losses(owner) or 'the difference is in its state'}")
        others = dict.fromkeys(found.table for found in self.lost if found.table not in (owner, OUTSIDE))
        for table in islice(others, _MAX_SHOWN):
            yield Fault(f"or: {self._named(table)}: {self._losses(table)}")

    def _named(self, table: str) -> str:
        return self.plugins.get(table, table)

    def _losses(self, table: str) -> str:
        return "; ".join([str(found) for found in self.lost if found.table == table][:_MAX_SHOWN])


@dataclass(frozen=True)
class Proof:
    """Result of comparing the two runs.

    Attributes:
        num_states: Number of states that were compared.
        num_lines: Number of lines of metrics that were compared.
        tally: Size of the states.
        divergence: The first place where the runs differ; None if there is none.
    """

    num_states: int
    num_lines: int
    tally: Tally
    divergence: Divergence | None


def _table_of(difference: Difference) -> str | None:
    head, *rest = difference.keys or ("",)
    if head == "plugins" and rest:
        return str(rest[0])
    return _OWNERS.get(str(head))
