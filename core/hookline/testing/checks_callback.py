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

import torch
from torch import Tensor

from hookline.engine.errors import ConfigError
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.run import Run
from hookline.testing.kit import Broken, Subject, brief_error, check, new_folder, skip
from hookline.testing.parts import Recorder, Tracer, changed_generators, generator_states, noisy_net

Ending = Literal["completed", "stopped", "interrupted", "failed"]
_RESUMED_STEP = 2
ENDINGS: tuple[Ending, ...] = ("completed", "stopped", "interrupted", "failed")


class DeliberateError(Exception):
    """What the kit raises in a step, to see a run fail."""


@dataclass
class Ender:
    """Ends a run in its second step, in one of the four ways."""

    how: Ending

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        """End the run."""
        if run.step < 2 or self.how == "completed":
            return
        if self.how == "stopped":
            run.request_stop("the kit tries this ending")
        elif self.how == "interrupted":
            raise KeyboardInterrupt
        else:
            raise DeliberateError("the kit tries this ending")


@dataclass(frozen=True)
class Ended:
    """A run that is over.

    Attributes:
        run: The run.
        error: What it raised.
        transcript: Its events.
    """

    run: Run
    error: BaseException | None
    transcript: list[str]


def _end(subject: Subject, how: Ending = "completed", **arguments: Any) -> Ended:
    """Run the plugin to an ending, among parts whose steps draw random numbers."""
    recorder = Recorder()
    beside = {"model": noisy_net, "callbacks.ender": Ender(how), "callbacks.recorder": recorder}
    run = subject.run(**{**arguments, "beside": {**beside, **arguments.get("beside", {})}})
    try:
        run.fit()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever a run raises is what is looked at
        return Ended(run, error, recorder.transcript)
    return Ended(run, None, recorder.transcript)


def _without(subject: Subject, **arguments: Any) -> Ended:
    """Run to the end the same run without the plugin."""
    return _end(subject, copies=0, **arguments)


@check
def survives_every_ending(subject: Subject) -> None:
    """It raises nothing of its own in any ending of a run, and hides no error of others."""
    expected = {"interrupted": KeyboardInterrupt, "failed": DeliberateError}
    for how in ENDINGS:
        with new_folder():
            error = _end(subject, how).error
        if type(error) is not expected.get(how, type(None)):
            seen = "nothing was raised" if error is None else f"it raised {brief_error(error)}"
            raise Broken(f"a run that is {how}: {seen}", "let errors pass, and raise none in events")
        # What is raised while a run is closed becomes a note on the error that ended it.
        if notes := [note for note in getattr(error, "__notes__", ()) if note.startswith("and then")]:
            raise Broken(f"a run that is {how}: {notes[0]}", "let on_run_error and on_run_end cope with every ending")


@check
def changes_no_result(subject: Subject) -> None:
    """It changes neither losses nor weights, and draws no random numbers that others share."""
    plain, observed = Tracer(), Tracer()
    _without(subject, beside={"callbacks.tracer": plain})
    before = generator_states()
    _end(subject, beside={"callbacks.tracer": observed})
    changed = [f"the state of {name}" for name in changed_generators(before)]
    parts = ("the loss", "the weights", "the state of torch in the run")
    # It may have ended the run before its time, so the steps that both took are compared.
    for number, (one, other) in enumerate(zip(plain.steps, observed.steps, strict=False), 1):
        if different := _different(parts, one, other):
            changed += [f"{name} at step {number}" for name in different]
            break
    if plain.last and observed.last and len(plain.steps) == len(observed.steps):
        changed += [f"{name} at the end" for name in _different(parts[1:], plain.last, observed.last)]
    if changed and (hooks := subject.wrapped_hooks()):
        skip(f"it has {', '.join(hooks)}, so changing the run may be what it is for")
    if changed:
        raise Broken(f"changed: {', '.join(changed)}", "look, do not touch; draw from run.generator(name)")


def _different(names: tuple[str, ...], first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> list[str]:
    return [name for name, one, other in zip(names, first, second, strict=True) if not torch.equal(one, other)]


@check
def state_round_trip(subject: Subject) -> None:
    """Its state_dict holds tensors and JSON's plain values alone, and makes another instance have the same state."""
    target = subject.plugin.target
    if not (hasattr(target, "state_dict") and hasattr(target, "load_state_dict")):
        skip("it has no state_dict and load_state_dict")
    first, second = subject.make(), subject.make()
    subject.run(beside={subject.table: first}).fit()
    # A run hands a state over when on_run_start has returned.
    subject.run(beside={subject.table: second}, epochs=1).fit()
    state = first.state_dict()
    if strange := sorted(set(_strange(state))):
        raise Broken(f"it holds {', '.join(strange)}", "keep numbers, text, lists, tables keyed by text, and tensors")
    second.load_state_dict(first.state_dict())
    if not _same(second.state_dict(), state):
        raise Broken("the state that was loaded comes back changed", "take up in load_state_dict all that it is given")


def _strange(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (f"a key that is a {type(key).__name__}" for key in value if not isinstance(key, str))
        for part in value.values():
            yield from _strange(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strange(part)
    elif not (value is None or isinstance(value, Tensor | str | int | float)):
        yield f"a {type(value).__name__}"


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return bool(first == second)


@check
def resumes_where_it_was(subject: Subject) -> None:
    """A run that is taken up in the middle of an epoch ends as one that was not interrupted."""
    beside = {"model": noisy_net}
    with new_folder():
        whole = subject.run(beside=beside)
        whole.fit()
    with new_folder():
        resumed = subject.run(beside=beside)
        resumed.load_state_dict(_state_in_the_middle(subject.run(beside=beside)))
        resumed.fit()
    ends = [(list(map(dict, run.history)), run.step, run.outcome, run.stop_reason) for run in (whole, resumed)]
    for what, one, other in zip(("history", "step", "outcome", "stop reason"), *ends, strict=True):
        if one != other:
            seen = f"the {what} is {other!r} instead of {one!r}"
            raise Broken(seen, "give it state_dict and load_state_dict with all that it counts and remembers")


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
    """After every ending the files, threads and child processes are those from before."""
    with new_folder():
        _end(subject)  # what the first run imports may stay open
    for how in ENDINGS:
        with new_folder():
            before = _open_things()
            # Held while it is looked at: what is only collected was not closed.
            ended = _end(subject, how)
            left = [what for thing, what in _open_things().items() if thing not in before]
            assert ended.run.outcome is not None
        if left:
            raise Broken(f"a run that is {how} leaves {', '.join(left)}", "close in on_run_end what on_run_start opens")


def _open_things() -> Mapping[object, str]:
    """Return what this process has open, by what tells one from another."""
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
        # The one that lists the folder is closed by now.
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
    """Two instances work in one run beside each other."""
    if "build_metrics" in subject.wrapped_hooks():
        skip("it has build_metrics, and a metric's name stands once")
    ended = _end(subject, copies=2)
    if ended.error:
        raise Broken(f"it raised {brief_error(ended.error)}", "keep state on self, and share no file, name or handler")


@check
def a_second_run_is_like_the_first(subject: Subject) -> None:
    """A run after another one in the same process, and the same folder, has the same events."""
    first, second = _end(subject), _end(subject)
    if second.error:
        raise Broken(f"the second run raised {brief_error(second.error)}", "keep state on self, not on the class")
    if first.transcript != second.transcript:
        advice = "keep state on self, not on the class or in the module"
        raise Broken(_first_difference(first.transcript, second.transcript), advice)


@check
def needs_no_evaluation(subject: Subject) -> None:
    """It works in a run that evaluates nothing, and in one without epochs, or refuses such a run as a config error."""
    bare: dict[str, dict[str, Any]] = {"without evaluation": {"evaluate": ()}, "without epochs": {"epochs": 0}}
    refusals = []
    for what, train in bare.items():
        with new_folder():
            try:
                error = _end(subject, **train).error
            except ConfigError as refusal:
                error = refusal
        if isinstance(error, ConfigError):
            refusals.append(f"it refuses a run {what}: {error.message}")
        elif error:
            raise Broken(f"a run {what}: it raised {brief_error(error)}", "expect no metric and no step to have been")
    if refusals:
        skip("; ".join(refusals))


@check
def leaves_events_alone(subject: Subject) -> None:
    """The other callbacks of a run get the same events as without it."""
    alone, beside = _without(subject), _end(subject)
    if beside.run.stop_reason and not alone.run.stop_reason:
        skip(f"it stopped the run: {beside.run.stop_reason}")
    # By these events a callback speaks to the others.
    spoken = ("on_warning", "on_checkpoint_saved")
    expected, got = ([line for line in run.transcript if not line.startswith(spoken)] for run in (alone, beside))
    if expected != got:
        raise Broken(_first_difference(expected, got), "change nothing on the run but its summary")


def _first_difference(expected: list[str], got: list[str]) -> str:
    pairs = enumerate(itertools.zip_longest(expected, got, fillvalue="nothing"), 1)
    number, (one, other) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return f"event {number} is {other!r} instead of {one!r}"
