"""Fit the saved states of plugins to the plugins of a run, of which some may be another release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookline.engine.errors import ContractError
from hookline.engine.loop.run import Run
from hookline.engine.plugin.member import Member

VERSION, UPGRADE = "state_version", "upgrade_state_dict"
"""The version of the form of a plugin's state, and the method that brings an older state to that form."""


def fitting_states(
    run: Run, saved: Mapping[str, Any], then: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the states to load by table, None where a plugin begins anew, and warnings.

    A plugin whose code has changed since may have gained or lost a state, or brought it to another form. Any other
    difference is left for ``Run.load_state_dict`` to refuse.

    Args:
        run: The run, not begun.
        saved: The saved states by table.
        then: Fingerprint of the run that saved them.
        now: Fingerprint of this run.

    Raises:
        ContractError: When a plugin cannot bring an older state to its form.
    """
    states, notes = dict(saved), []
    for member in run.members:
        table, has_state = member.table, hasattr(member.instance, "state_dict")
        before, after = (_entry(identity, table) for identity in (then, now))
        if before is None or before["name"] != after["name"]:
            continue
        if table in saved and has_state:
            version, wanted = before.get(VERSION, 1), after.get(VERSION, 1)
            if version != wanted and (state := _upgraded(member, saved[table], version, wanted)) is None:
                notes.append(f"{table}: its state has version {version}, but it reads version {wanted}: it begins anew")
                states[table] = None
            elif version != wanted:
                states[table] = state
        elif has_state and _has_changed(then, now, table):
            states[table] = None
            notes.append(f"{table}: it had no state when the run was saved: it begins anew")
        elif table in saved and _has_changed(then, now, table):
            del states[table]
            notes.append(f"{table}: it no longer has a state; the saved one is ignored")
    return states, notes


def _upgraded(member: Member, state: Any, version: int, wanted: int) -> Any:
    upgrade = getattr(member.instance, UPGRADE, None)
    if upgrade is None:
        return None
    try:
        return upgrade(state, version)
    except Exception as error:
        message = f"{member.plugin} cannot bring its state from version {version} to {wanted}"
        raise ContractError(f"{message}: {type(error).__name__}: {error}") from error


def _entry(identity: Mapping[str, Any], table: str) -> Any:
    return identity.get("plugins", {}).get(table)


def _has_changed(then: Mapping[str, Any], now: Mapping[str, Any], table: str) -> bool:
    """Return whether the code of a plugin has changed; also for one without a distribution, whose code is not known."""
    distribution = _entry(now, table)["distribution"]
    codes = [identity.get("code", {}).get(distribution) for identity in (then, now)]
    return distribution is None or codes[0] != codes[1] or _entry(then, table) != _entry(now, table)
