"""``StateCheck``: the check that a state that a run saves can be loaded again, by loading it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from hookline.config.run_config import RunConfig
from hookline.engine.errors import CheckpointError, Fault
from hookline.engine.loop.building import Site
from hookline.engine.loop.run import Run
from hookline.engine.rng import RandomState, preserved_rng
from hookline.engine.view import RunView
from hookline.runs.disk.encoding import encode
from hookline.runs.folder import expect_saved_weights
from hookline.runs.redaction import Redaction

_ADVICE = "fix it now: a run could not resume from such a state"


class StateCheck:
    """The check that the state of a run can be saved, and loaded into a new run.

    The state of the model is loaded into a second model, which is built as the first one, and compared. A buffer that
    is not part of the state must not change.

    Args:
        run: The run, before its first step.
    """

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._before = {name: buffer.clone() for name, buffer in _unsaved_buffers(run).items()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Check a state, from ``Run.state_dict``, once; later calls do not notice buffers that have changed.

        Raises:
            CheckpointError: When it cannot be saved or loaded again; names every part of it that cannot.
        """
        encode(dict(state), shared_out={})
        faults = [
            *self._faults_of_secrets(state),
            *self._faults_of_plugins(),
            *self._faults_of_buffers(),
            *self._faults_of_modules(state),
        ]
        self._before = {}
        if faults:
            raise CheckpointError("the state of this run could not be loaded again", hint=_ADVICE, faults=faults)

    def _faults_of_secrets(self, state: Mapping[str, Any]) -> Iterator[Fault]:
        for place in Redaction.of(self._run.config).places(state["plugins"], "plugins"):
            hint = "leave it out of state_dict: a resumed run gets its options from its config"
            yield Fault(f"{place} contains a secret of the config", hint=hint)

    def _faults_of_plugins(self) -> Iterator[Fault]:
        for member in self._run.members:
            if hasattr(member.instance, "state_dict") and not hasattr(member.instance, "load_state_dict"):
                hint = "add load_state_dict(state), which restores what state_dict returns"
                yield Fault(f"{member.plugin} has a state_dict, but no load_state_dict", hint=hint)

    def _faults_of_buffers(self) -> Iterator[Fault]:
        now = _unsaved_buffers(self._run)
        for name, before in self._before.items():
            if name in now and not _is_same(before, now[name]):
                hint = "register it with persistent=True; if it is only a cache, make it a plain attribute"
                yield Fault(f"the buffer {name!r} changes, but is not part of the state (persistent=False)", hint=hint)

    def _faults_of_modules(self, state: Mapping[str, Any]) -> Iterator[Fault]:
        run = self._run
        whole = run.ranks.whole(state["model"])
        yield from _faults_of(run.unwrapped_model, _second_model(run), whole, "the model")
        if isinstance(run.loss, nn.Module):
            yield from _faults_of(run.loss, None, state["loss"], "the loss")


def _faults_of(module: nn.Module, second: nn.Module | None, state: Mapping[str, Any], name: str) -> Iterator[Fault]:
    """Yield the parts of a state that a second module, or else a copy of the module, does not take over."""
    hint = "give it values that load_state_dict can restore; an expanded tensor needs .clone()"
    try:
        loaded = second or copy.deepcopy(module)
    except Exception:  # noqa: BLE001 - a module that cannot be copied may be as good as any
        return
    try:
        with torch.no_grad(), preserved_rng():
            loaded.load_state_dict(copy.deepcopy(dict(state)))
        found = loaded.state_dict()
    except Exception as error:  # noqa: BLE001 - whatever it raises, it would raise when the run resumes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        yield Fault(f"{name} cannot load its own state: {type(error).__name__}: {' '.join(lines)[:500]}", hint=hint)
        return
    for key in state.keys() | found.keys():
        if key not in found or key not in state or not _is_same(state[key], found[key]):
            yield Fault(f"{key} of {name} is not restored by load_state_dict", hint=hint)


def _second_model(run: RunView) -> nn.Module | None:
    """Build the model of a run once more, on the CPU; None if an object from Python takes part in building it."""
    models: list[nn.Module] = []

    def build(site: Site) -> None:
        expect_saved_weights(site.run)
        site.parts.data = run.data
        with RandomState(site.run.config.train.seed, "model").active():
            site.host.first_result("build_model", run=site.run, data=run.data)
        models.append(site.host.makers.first["build_model"])

    targets = [cast(Any, member.plugin).target for member in _builders(run)]
    if not all(inspect.isclass(target) or inspect.isroutine(target) for target in targets):
        return None
    try:
        Run(cast(RunConfig, run.config), build=build)
    except Exception:  # noqa: BLE001 - a component that can be built only once is no fault of its state
        return None
    is_new = not {id(tensor) for tensor in models[0].parameters()} & {id(t) for t in run.unwrapped_model.parameters()}
    return models[0] if is_new else None


def _builders(run: RunView) -> Iterator[Any]:
    building = [member for member, _ in run.hook_order("build_model")]
    yield from (member for member in run.members if member in building)


def _unsaved_buffers(run: RunView) -> dict[str, Tensor]:
    """Return the buffers of the model and the loss that are not part of their state."""
    modules = {"model": run.unwrapped_model, "loss": run.loss}
    return {
        f"{part}.{name}": buffer.detach()
        for part, module in modules.items()
        if isinstance(module, nn.Module)
        for name, buffer in _buffers_outside(module, module.state_dict().keys())
    }


def _buffers_outside(module: nn.Module, saved: Any) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name not in saved)


def _is_same(saved: Any, found: Any) -> bool:
    """Return whether two values are equal, NaN included, in the dtype of the second."""
    if not (isinstance(saved, Tensor) and isinstance(found, Tensor)):
        return type(saved) is type(found) and encode(saved, "it")[0] == encode(found, "it")[0]
    if saved.shape != found.shape:
        return False
    one, other = saved.detach().to(device=found.device, dtype=found.dtype), found.detach()
    return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124 - NaN alone differs from itself
