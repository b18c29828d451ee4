"""``PluginStates``: the states of the plugins of a run, taken from them and loaded into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookline.engine.errors import ContractError, HooklineError, error_text
from hookline.engine.plugin.hook_call import guarded
from hookline.engine.plugin.member import Member


class PluginStates:
    """The states of the plugins of a run, by table; saved ones are kept until the plugins are started.

    Args:
        members: The plugins.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._saved: Mapping[str, Any] = {}

    def of(self, member: Member) -> Any:
        """Return the saved state of a plugin; None if there is none."""
        return self._saved.get(member.table)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each plugin that has ``state_dict``, by table."""
        members = self._with_state().items()
        return {table: guarded(member.instance.state_dict, member, "state_dict")() for table, member in members}

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

    def load_into(self, member: Member) -> None:
        """Load the saved state of a plugin, if there is one.

        Raises:
            ContractError: When the plugin cannot load it.
        """
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
