"""Compare the two runs of a proof of resume, to the last bit.

The first run is never interrupted, the second is killed again and again. Both save every state. The contents of their
plugins are recorded with each state, and again on each resume, so that a loss can be named even if no state shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from hookline.config.plugins.catalog import OWN_DISTRIBUTION
from hookline.runs.folder import METRICS
from hookline.runs.record import read_record
from hookline.trials.proof.evidence import Evidence, checkpoints_of, end_of, metrics_of, state_of
from hookline.trials.proof.kills import Place
from hookline.trials.proof.losses import find_losses
from hookline.trials.proof.seen import read_seen
from hookline.trials.proof.verdict import Divergence, Proof

if TYPE_CHECKING:
    from hookline.trials.proof.differences import Difference


_MAX_DIFFERENCES = 1000


def compare(evidence: Evidence) -> Proof:
    """Compare two runs, state by state, to the last bit.

    Raises:
        CheckpointError: When one of their files cannot be read.
    """
    from hookline.trials.proof.differences import differences, tally

    total = tally([])
    places, others = checkpoints_of(evidence.whole), checkpoints_of(evidence.resumed)
    for number, (place, path) in enumerate(places.items()):
        state = state_of(path)
        total += tally(state)
        there = state_of(others[place]) if place in others else {}
        if found := _ranked(differences(state, there)):
            return Proof(number + 1, 0, total, _divergence(evidence, f"checkpoint {path.name}", place, found))
    metrics = [metrics_of(folder) for folder in (evidence.whole, evidence.resumed)]
    ends = [end_of(folder) for folder in (evidence.whole, evidence.resumed)]
    counts = len(places), len(metrics[0]), total + tally(ends[0])
    for where, pair in ((METRICS, metrics), ("the end of the run", ends)):
        if found := _ranked(differences(*pair)):
            return Proof(*counts, _divergence(evidence, where, max(places, default=(0, 0)), found))
    return Proof(*counts, None)


def _ranked(found: Iterator[Difference]) -> tuple[Difference, ...]:
    """Return differences, causes before their usual consequences."""
    return tuple(sorted(islice(found, _MAX_DIFFERENCES), key=_rank))


def _rank(difference: Difference) -> int:
    # Random numbers steer the model, the model its optimizer, all of them the metrics.
    order = ("step", "epoch", "position", "random", "model", "wrappers", "loss", "optimizer", "plugins")
    head = difference.keys[0] if difference.keys else ""
    return order.index(head) if head in order else len(order)


def _divergence(evidence: Evidence, where: str, place: Place, found: tuple[Difference, ...]) -> Divergence:
    begun = [there for there in evidence.begun[1:] if there < place]
    plugins = read_record(evidence.whole).identity.get("plugins", {})
    seen = read_seen(evidence.seen)
    lost = [item for item in find_losses(seen, begun) if item.table not in evidence.besides]
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
        plugins={table: _described(table, plugin) for table, plugin in plugins.items()},
    )


def _is_own(plugin: Mapping[str, Any] | None) -> bool:
    return plugin is None or plugin["distribution"] in (None, OWN_DISTRIBUTION)


def _described(table: str, plugin: Mapping[str, Any]) -> str:
    source = " ".join(filter(None, (plugin["distribution"], plugin["version"])))
    return f"{table} ({plugin['name']}, {source or 'an object'})"
