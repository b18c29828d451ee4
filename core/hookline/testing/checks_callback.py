"""The checks for callbacks."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hookline.engine.errors import ConfigError
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.run import Run
from hookline.testing.kit import Broken, Subject, check, new_folder, skip, whole_error
from hookline.testing.parts import Recorder, Tracer, changed_generators, generator_states, noisy_net

Ending = Literal["completed", "stopped", "interrupted", "failed"]
_RESUMED_STEP = 2
_NUMBERS = "biufc"
"""The kinds of a NumPy dtype of numbers."""
ENDINGS: tuple[Ending, ...] = ("completed", "stopped", "interrupted", "failed")


class DeliberateError(Exception):
    """The error that the kit raises in a step to make a run fail."""


@dataclass
class Ender:
    """Ends a run in its second step, in one of four ways."""

    how: Ending

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        """End the run."""
        if run.step < 2 or self.how == "completed":
            return
        if self.how == "stopped":
            run.request_stop("the kit tests this ending")
        elif self.how == "interrupted":
            raise KeyboardInterrupt
        else:
            raise DeliberateError("the kit tests this ending")


@dataclass(frozen=True)
class Ended:
    """A finished run.

    Attributes:
        run: The run.
        error: The error that it raised, if any.
        transcript: Its events.
    """

    run: Run
    error: BaseException | None
    transcript: list[str]


def _end(subject: Subject, how: Ending = "completed", **arguments: Any) -> Ended:
    """Run the plugin to an ending, with steps that draw random numbers."""
    recorder = Recorder()
    plugins = {"model": noisy_net, "callbacks.ender": Ender(how), "callbacks.recorder": recorder}
    run = subject.run(**{**arguments, "plugins": {**plugins, **arguments.get("plugins", {})}})
    try:
        run.fit()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the checks examine any error
        return Ended(run, error, recorder.transcript)
    return Ended(run, None, recorder.transcript)


def _without(subject: Subject, **arguments: Any) -> Ended:
    """Run the same run without the plugin."""
    return _end(subject, copies=0, **arguments)


@check
def survives_every_ending(subject: Subject) -> None:
    """The callback raises no error and hides none of others, however the run ends."""
    expected = {"interrupted": KeyboardInterrupt, "failed": DeliberateError}
    for how in ENDINGS:
        with new_folder():
            error = _end(subject, how).error
        if type(error) is not expected.get(how, type(None)):
            seen = "no error was raised" if error is None else f"it raised {whole_error(error)}"
            raise Broken(f"in a run that is {how}, {seen}", "let errors propagate, and raise none in events")
        # An error raised while a run is closed becomes a note on the error that ended it.
        if notes := [note for note in getattr(error, "__notes__", ()) if note.startswith("and then")]:
            raise Broken(f"in a run that is {how}, {notes[0]}", "make on_run_error and on_run_end handle every ending")


@check
def changes_no_result(subject: Subject) -> None:
    """The callback changes no losses or weights, and draws nothing from global random generators."""
    plain, observed = Tracer(), Tracer()
    _without(subject, plugins={"callbacks.tracer": plain})
    before = generator_states()
    _end(subject, plugins={"callbacks.tracer": observed})
    changed = [f"the state of {name}" for name in changed_generators(before)]
    parts = ("the loss", "the weights", "the state of torch in the run")
    # Compare only the steps of both runs, because the callback may stop its run early.
    for number, (one, other) in enumerate(zip(plain.steps, observed.steps, strict=False), 1):
        if different := _different(parts, one, other):
            changed += [f"{name} at step {number}" for name in different]
            break
    if plain.last and observed.last and len(plain.steps) == len(observed.steps):
        changed += [f"{name} at the end" for name in _different(parts[1:], plain.last, observed.last)]
    if changed and (hooks := subject.wrapped_hooks()):
        skip(f"it has {', '.join(hooks)}, so it may change the run on purpose")
    if changed:
        raise Broken(f"changed: {', '.join(changed)}", "observe without changing; draw from run.generator(name)")


def _different(names: tuple[str, ...], first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> list[str]:
    return [name for name, one, other in zip(names, first, second, strict=True) if not torch.equal(one, other)]


@check
def state_round_trip(subject: Subject) -> None:
    """state_dict holds only types that a state may have, and load_state_dict restores all of it in another instance."""
    target = subject.plugin.target
    if not (hasattr(target, "state_dict") and hasattr(target, "load_state_dict")):
        skip("it has no state_dict and load_state_dict")
    first, second = subject.make(), subject.make()
    subject.run(plugins={subject.table: first}).fit()
    # A run loads a state after on_run_start, and the state here must be another one.
    for _ in subject.run(plugins={subject.table: second}).steps():
        break
    state = first.state_dict()
    if unsupported := sorted(set(_unsupported(state))):
        advice = "use tensors, arrays of numbers, numbers, text, bytes, lists, tuples and mappings"
        raise Broken(f"it holds {', '.join(unsupported)}", advice)
    second.load_state_dict(first.state_dict())
    if not _same(second.state_dict(), state):
        raise Broken("the loaded state comes back changed", "restore all of the state in load_state_dict")


def _unsupported(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for part in (*value, *value.values()):
            yield from _unsupported(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _unsupported(part)
    elif isinstance(value, np.ndarray):
        if value.dtype.kind not in _NUMBERS:
            yield f"an array of {value.dtype}"
    elif not (value is None or isinstance(value, Tensor | str | bytes | int | float)):
        yield f"a {type(value).__name__}"


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if type(first) is not type(second):
        return False
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Tensor | np.ndarray):
        is_alike = first.dtype == second.dtype and first.shape == second.shape
        return is_alike and bool(_equal(first, second).all())
    return bool(_equal(first, second))


def _equal(first: Any, second: Any) -> Any:
    """Compare numbers, or the elements of arrays; NaN, which alone differs from itself, is equal to NaN."""
    return (first == second) | ((first != first) & (second != second))  # noqa: PLR0124 - see above


@check
def resumes_where_it_was(subject: Subject) -> None:
    """A run that resumes in mid-epoch with the callback's state_dict ends like an uninterrupted one."""
    plugins = {"model": noisy_net}
    with new_folder():
        whole = subject.run(plugins=plugins)
        whole.fit()
    with new_folder():
        resumed = subject.run(plugins=plugins)
        resumed.load_state_dict(_state_in_the_middle(subject.run(plugins=plugins)))
        resumed.fit()
    ends = [(list(map(dict, run.history)), run.step, run.outcome, run.stop_reason) for run in (whole, resumed)]
    for name, one, other in zip(("history", "step", "outcome", "stop reason"), *ends, strict=True):
        if one != other:
            seen = f"the {name} is {other!r} instead of {one!r}"
            raise Broken(seen, "save everything that it counts or remembers in state_dict, and restore it")


def _state_in_the_middle(run: Run) -> Mapping[str, Any]:
    state: Mapping[str, Any] | None = None
    for step in run.steps():
        if step.step == _RESUMED_STEP:
            state = run.state_dict()
            break
    if state is None:
        skip(f"it ended the run before step {_RESUMED_STEP}")
    return state


@check
def closes_what_it_opens(subject: Subject) -> None:
    """Files, threads and child processes opened in on_run_start are closed in on_run_end, however the run ends."""
    with new_folder():
        _end(subject)  # imports of the first run may leave something open
    for how in ENDINGS:
        with new_folder():
            before = _open_things()
            # Keep a reference, so that garbage collection cannot pass for closing.
            ended = _end(subject, how)
            left = [description for thing, description in _open_things().items() if thing not in before]
            assert ended.run.outcome is not None
        if left:
            raise Broken(f"a run that is {how} leaves {', '.join(left)}", "open in on_run_start, close in on_run_end")


def _open_things() -> Mapping[object, str]:
    """Return the open files, threads and children of this process: identities, each with a description."""
    found = _open_files()
    for thread in threading.enumerate():
        found["thread", thread.ident] = f"the thread {thread.name!r}"
    for pid in _children():
        found["child", pid] = f"the child process {pid}"
    return found


def _open_files() -> dict[object, str]:
    files: dict[object, str] = {}
    folder = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.exists()), None)
    for path in folder.iterdir() if folder else ():
        # The descriptor that lists the folder is closed by now.
        with suppress(OSError):
            target = str(path.readlink()) if path.is_symlink() else path.name
            files["file", path.name, target] = f"the open file {target}"
    return files


def _children() -> Iterator[int]:
    yield from (child.pid for child in multiprocessing.active_children() if child.pid)
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, path.read_text().split())


@check
def two_live_in_one_run(subject: Subject) -> None:
    """Two instances work in the same run: each keeps its state on self."""
    if "build_metrics" in subject.wrapped_hooks():
        skip("it has build_metrics, and names of metrics are unique")
    ended = _end(subject, copies=2)
    if ended.error:
        raise Broken(f"it raised {whole_error(ended.error)}", "keep state on self, and share no file, name or handler")


@check
def a_second_run_is_like_the_first(subject: Subject) -> None:
    """A second run in the same process and folder has the same events as the first: no state outlives a run."""
    first, second = _end(subject), _end(subject)
    if second.error:
        raise Broken(f"the second run raised {whole_error(second.error)}", "keep state on self, not on the class")
    if first.transcript != second.transcript:
        advice = "keep state on self, not on the class or the module"
        raise Broken(_first_difference(first.transcript, second.transcript), advice)


@check
def needs_no_evaluation(subject: Subject) -> None:
    """The callback works in a run without evaluation or without epochs, or rejects it with a ConfigError."""
    bare: dict[str, dict[str, Any]] = {"without evaluation": {"evaluate": ()}, "without epochs": {"epochs": 0}}
    refusals = []
    for case, train in bare.items():
        with new_folder():
            try:
                error = _end(subject, **train).error
            except ConfigError as refusal:
                error = refusal
        if isinstance(error, ConfigError):
            refusals.append(f"it rejects a run {case}: {error.message}")
        elif error:
            raise Broken(f"in a run {case}, it raised {whole_error(error)}", "do not rely on a metric or a step")
    if refusals:
        skip("; ".join(refusals))


@check
def leaves_events_alone(subject: Subject) -> None:
    """The other callbacks of a run get the same events as without this one, which changes only the summary."""
    without, together = _without(subject), _end(subject)
    if together.run.stop_reason and not without.run.stop_reason:
        skip(f"it stopped the run: {together.run.stop_reason}")
    # Callbacks may cause these events.
    caused = ("on_warning", "on_checkpoint_saved", "on_log")
    expected, got = ([line for line in run.transcript if not line.startswith(caused)] for run in (without, together))
    if expected != got:
        raise Broken(_first_difference(expected, got), "change nothing on the run except its summary")


def _first_difference(expected: list[str], got: list[str]) -> str:
    pairs = enumerate(itertools.zip_longest(expected, got, fillvalue="nothing"), 1)
    number, (one, other) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return f"event {number} is {other!r} instead of {one!r}"
