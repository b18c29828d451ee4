"""Verdict of a proof of resume: compare a run that was killed and resumed with one that was not.

A proof is made of two runs of one config: the first is never interrupted, the second is killed again and again. Both
save every state. The contents of their plugins are recorded with each state, and again on each resume, so that a loss
can be named even if no state shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline.engine.errors import CheckpointError, Fault
from hookline.engine.plugin.catalog import OWN_DISTRIBUTION
from hookline.runs.disk.checkpoint import checkpoints_in, read_checkpoint, read_manifest
from hookline.runs.folder import METRICS, read_model
from hookline.runs.record import read_record
from hookline.trials.proof.kills import Place
from hookline.trials.proof.seen import Seen, _read_seen

if TYPE_CHECKING:
    from hookline.trials.proof.comparison import Difference, Tally


NOT_COMPARED = ("used_s", "warnings")
"""Parts of a state that depend on the clock or on the interruptions."""

_MAX_DIFFERENCES = 1000
_MAX_TOLD = 4
_SHIP = "docs/how-to/ship-state.md"
_ELSEWHERE = "Python's and NumPy's generators"
"""The table of contents that belong to no plugin."""
_OWNERS = {"model": "model", "wrappers": "model", "loss": "loss", "optimizer": "optimizer"}


@dataclass(frozen=True)
class Lost:
    """Contents of a plugin that are not the same in both runs.

    Attributes:
        table: The plugin's table.
        name: Its place in the plugin.
        before: Its text in the first run; None for nothing.
        after: Its text in the second run, likewise.
        step: Number of steps taken by then.
    """

    table: str
    name: str
    before: str | None
    after: str | None
    step: int

    def __str__(self) -> str:
        before, after = self.before or "nothing", self.after or "nothing"
        return f"{self.name or 'it'} was {before} after {self.step} steps in the first run, and {after} in the second"


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
        lost = self.lost[0].table if self.lost else _ELSEWHERE
        return bool(self.draws) and lost == _ELSEWHERE and (self.is_before_kill or bool(self.lost))

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
        shown = ", ".join(rest[:_MAX_TOLD])
        more = f" and {len(rest) - _MAX_TOLD} more" if len(rest) > _MAX_TOLD else ""
        return [Fault(f"also different there: {shown}{more}")] if rest else []

    def _causes(self) -> Iterator[Fault]:
        owner = self.owner
        if owner is None:
            hint = "save states more often: --every-steps 1"
            yield Fault("no plugin owns it, and none was seen to lose state", hint=hint)
            return
        if self._is_drawn:
            drawn = f"it draws from {_ELSEWHERE}, which belong to no run: {', '.join(self.draws)}"
            yield Fault(f"owner: {self._named(owner)}: {drawn}")
            return
        yield Fault(f"owner: {self._named(owner)}: {self._losses(owner) or 'the difference is in its state'}")
        others = dict.fromkeys(found.table for found in self.lost if found.table not in (owner, _ELSEWHERE))
        for table in islice(others, _MAX_TOLD):
            yield Fault(f"or: {self._named(table)}: {self._losses(table)}")

    def _named(self, table: str) -> str:
        return self.plugins.get(table, table)

    def _losses(self, table: str) -> str:
        return "; ".join([str(found) for found in self.lost if found.table == table][:_MAX_TOLD])


_UNREPEATABLE = "draw from torch, or from the generator run.generator(NAME): docs/explanation/random-numbers.md"


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


@dataclass(frozen=True)
class Evidence:
    """Files that the processes of a proof have left.

    Attributes:
        whole: Folder of the run that was never interrupted.
        resumed: Folder of the run that was killed.
        seen: Folder of the contents of their plugins.
        besides: Tables of the plugins that save the runs for the proof: their contents are about their own files.
        begun: Place where each process of the killed run started: (0, 0) for the first.
    """

    whole: Path
    resumed: Path
    seen: Path
    besides: frozenset[str]
    begun: Sequence[Place]


def compare(evidence: Evidence) -> Proof:
    """Compare two runs, state by state, to the last bit.

    Raises:
        CheckpointError: When one of their files cannot be read.
    """
    from hookline.trials.proof.comparison import differences, tally

    total = tally([])
    places: dict[Place, Path] = {
        _place(path): path for path in reversed(checkpoints_in(evidence.whole / "checkpoints"))
    }
    others = {_place(path): path for path in checkpoints_in(evidence.resumed / "checkpoints")}
    for number, (place, path) in enumerate(places.items()):
        state = _compared(read_checkpoint(path).state)
        total += tally(state)
        there = _compared(read_checkpoint(others[place]).state) if place in others else {}
        if found := _found(differences(state, there)):
            return Proof(number + 1, 0, total, _divergence(evidence, f"checkpoint {path.name}", place, found))
    measured = [_lines(path / METRICS) for path in (evidence.whole, evidence.resumed)]
    ends = [_end(evidence.whole), _end(evidence.resumed)]
    counts = len(places), len(measured[0]), total + tally(ends[0])
    for where, pair in ((METRICS, measured), ("the end of the run", ends)):
        if found := _found(differences(*pair)):
            return Proof(*counts, _divergence(evidence, where, max(places, default=(0, 0)), found))
    return Proof(*counts, None)


def _lines(path: Path) -> dict[str, str]:
    return {f"line {number}": line for number, line in enumerate(path.read_text().splitlines(), 1)}


def _place(path: Path) -> Place:
    manifest = read_manifest(path)
    return manifest.step, manifest.epoch - bool(manifest.position)


def _compared(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in NOT_COMPARED}


def _end(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    weights = read_model(folder) if record.model else {}
    return {"status": record.status, "step": record.step, "epochs": record.epochs, "model": weights}


def _found(found: Iterator[Difference]) -> tuple[Difference, ...]:
    """Return differences, causes before their usual consequences."""
    return tuple(sorted(islice(found, _MAX_DIFFERENCES), key=_rank))


def _rank(difference: Difference) -> int:
    # Random numbers steer the model, the model its optimizer, all of them the metrics.
    order = ("step", "epoch", "position", "random", "model", "wrappers", "loss", "optimizer", "plugins")
    head = difference.keys[0] if difference.keys else ""
    return order.index(head) if head in order else len(order)


def _table_of(difference: Difference) -> str | None:
    head, *rest = difference.keys or ("",)
    if head == "plugins" and rest:
        return str(rest[0])
    return _OWNERS.get(str(head))


# ---- losses of plugins -----------------------------------------------------------------------------------------------


def _divergence(evidence: Evidence, where: str, place: Place, found: tuple[Difference, ...]) -> Divergence:
    begun = [there for there in evidence.begun[1:] if there < place]
    plugins = read_record(evidence.whole).identity.get("plugins", {})
    seen = _read_seen(evidence.seen)
    found_lost = _lost(seen, begun) if begun else _generators(seen)
    lost = [item for item in found_lost if item.table not in evidence.besides]
    order = list(plugins)
    # Plugins of others first: Hookline's own are covered by its tests.
    lost.sort(key=lambda item: (_is_own(plugins.get(item.table)), item.table in order and order.index(item.table)))
    return Divergence(
        where=where,
        differences=found,
        is_before_kill=not begun,
        resumed_from=begun[-1][0] if begun else 0,
        lost=tuple(lost),
        draws=tuple(dict.fromkeys(text for one in seen.values() for text in one.draws)),
        plugins={table: _plugin(table, plugin) for table, plugin in plugins.items()},
    )


def _is_own(plugin: Mapping[str, Any] | None) -> bool:
    return plugin is None or plugin["distribution"] in (None, OWN_DISTRIBUTION)


def _plugin(table: str, plugin: Mapping[str, Any]) -> str:
    source = " ".join(filter(None, (plugin["distribution"], plugin["version"])))
    return f"{table} ({plugin['name']}, {source or 'an object'})"


def _generators(seen: Mapping[str, Seen]) -> Iterator[Lost]:
    """Yield the generators of plugins that differ although nothing was interrupted."""
    from hookline.trials.proof.inside import STATE

    whole = {one.place: one for name, one in seen.items() if name.startswith("whole-")}
    for stem, one in seen.items():
        if stem.startswith("0-saved") and one.place in whole:
            for table, name, before, after in _changes(whole[one.place], one):
                if table != _ELSEWHERE and (before or "").startswith(STATE) and (after or "").startswith(STATE):
                    yield Lost(table, name, before, after, one.step)


def _lost(seen: Mapping[str, Seen], begun: Sequence[Place]) -> Iterator[Lost]:
    """Yield contents that were not restored on resume, except those that differ in any two runs."""
    whole = {one.place: one for name, one in seen.items() if name.startswith("whole-")}
    noise = {
        (table, name)
        for stem, one in seen.items()
        if stem.startswith("0-saved") and one.place in whole
        for table, name, _, _ in _changes(whole[one.place], one)
    }
    for stem, one in seen.items():
        if "-resumed-" in stem and one.place in whole and one.place in begun:
            for table, name, before, after in _changes(whole[one.place], one):
                if (table, name) not in noise:
                    yield Lost(table, name, before, after, one.step)


def _changes(one: Seen, other: Seen) -> Iterator[tuple[str, str, str | None, str | None]]:
    for table in one.held.keys() | other.held.keys():
        held, there = one.held.get(table, {}), other.held.get(table, {})
        for name in [*held, *(name for name in there if name not in held)]:
            if held.get(name) != there.get(name):
                yield table, name, held.get(name), there.get(name)
