"""``PluginStates``: the states of the plugins of a run, taken from them and loaded into them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hookline.engine.errors import ContractError, HooklineError, error_text
from hookline.engine.plugin.hook_call import guarded
from hookline.engine.plugin.member import Member


class PluginStates:
    """The states of the plugins of a run, by table; saved ones are kept until the plugins are started.

    Args:
        members: The plugins.
        failed: Those that failed and are tolerated; they keep the states that were saved.
    """

    def __init__(self, members: Sequence[Member], failed: Collection[Member] = ()) -> None:
        self._members = members
        self._failed = failed
        self._saved: Mapping[str, Any] = {}

    def of(self, member: Member) -> Any:
        """Return the saved state of a plugin; None if there is none."""
        return self._saved.get(member.table)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each plugin that has ``state_dict``, by table."""
        return {table: self._taken_from(member) for table, member in self._with_state().items()}

    def _taken_from(self, member: Any) -> Any:
        failed = member in self._failed
        return self.of(member) if failed else guarded(member.instance.state_dict, member, "state_dict")()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the states of the plugins until they are started; one that is None is not loaded.

        Raises:
            ContractError: When they belong to other plugins than those of this run.
        """
        if unmatched := sorted(state.keys() ^ self._with_state().keys()):
            lacks = [f"the run has no {label!r} with a state" for label in unmatched if label in state]
            lacks += [f"there is no state for {label!r}" for label in unmatched if label not in state]
            hint = "resume with the config of the run that saved it"
            raise ContractError(f"this state belongs to a different run: {'; '.join(lacks)}", hint=hint)
        self._saved = state

    def load(self, members: Iterable[Member]) -> None:
        """Load the saved states of plugins in this order, and forget them.

        Raises:
            ContractError: When a plugin cannot load its state.
        """
        for member in members:
            if member not in self._failed:
                self._load_into(member)
        self._saved = {member.table: self.of(member) for member in self._failed}

    def _load_into(self, member: Member) -> None:
        instance: Any = member.instance
        try:
            if (state := self.of(member)) is not None:
                instance.load_state_dict(state)
        except HooklineError:
            raise
        except Exception as error:
            message = f"{member.plugin} cannot load its state: {error_text(error)}"
            raise ContractError(message, hint="resume with the version that saved it") from error

    def _with_state(self) -> dict[str, Any]:
        return {member.table: member for member in self._members if hasattr(member.instance, "state_dict")}
