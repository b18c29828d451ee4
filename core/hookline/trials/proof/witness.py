"""``Witness``: records the contents of plugins in a run, and kills the run at a given moment."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hookline.engine.plugin.observer import Observer
from hookline.runs.folder import folder_of
from hookline.trials.proof.kills import Kill, Place
from hookline.trials.proof.seen import OUTSIDE, Seen, seen_name

if TYPE_CHECKING:
    from hookline.engine.loop.run import Run
    from hookline.engine.plugin.member import Member


_SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # where it is missing, SIGTERM also ends a process at once
_EVENT_KINDS = {"on_save_point": "save", "on_checkpoint_saved": "save"}
_BEFORE_LOADING = ("on_run_start", "on_warning")
_FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


class Order(msgspec.Struct, kw_only=True):
    """Instructions for a process of a proof.

    Attributes:
        role: ``look`` up the length of the run, ``train`` it, or ``resume`` it.
        name: Name of the process in the proof.
        words: The config and overrides of the run.
        files: Plugin files that may be used.
        allow: The only distributions whose plugins may be used.
        deny: Distributions whose plugins may not be used.
        parent: Folder in which the run folder is created.
        every_steps: Number of steps from one state to the next.
        run: The folder of the run to resume.
        overrides: Overrides of its config.
        seen: Folder for the contents of plugins.
        reports: File for the reports.
        kill: The kill; None for none.
        num_ranks: Number of ranks that train the run.
    """

    role: Literal["look", "train", "resume"]
    name: str
    words: Sequence[str]
    files: Sequence[str]
    allow: Sequence[str]
    deny: Sequence[str]
    parent: str
    every_steps: int
    run: str = ""
    overrides: Mapping[str, Any] = {}
    seen: str
    reports: str
    kill: Kill | None = None
    num_ranks: int = 1


class Report(msgspec.Struct, omit_defaults=True):
    """Report of a process of a proof.

    Attributes:
        event: ``begun``, ``armed`` (from here on it may be killed by the clock), ``killed``, ``ended`` or ``failed``.
        step: Number of steps taken.
        epochs: Number of epochs ended.
        num_steps: Number of steps of the whole run.
        folder: The run folder.
        what: The moment of the kill, in words; or the error.
        kind: Name of the class of the error.
        seconds: Duration of the loop.
        moments: Number of moments of each kind, by the number of steps taken before.
    """

    event: Literal["begun", "armed", "killed", "ended", "failed"]
    step: int = 0
    epochs: int = 0
    num_steps: int | None = None
    folder: str = ""
    what: str = ""
    kind: str = ""
    seconds: float = 0.0
    moments: dict[str, dict[int, int]] = {}


class Witness(Observer):
    """Records the contents of plugins, counts moments, and kills this process at one of them.

    Args:
        order: The instructions.
        report: Called with each report.
    """

    run: Run

    def __init__(self, order: Order, report: Callable[[Report], None]) -> None:
        self._order = order
        self._report = report
        self._kill = order.kill
        self._num_passed = 0
        self._is_at_work = self._is_loaded = self._is_armed = False
        self._members: Sequence[Member] = ()
        self._built: dict[str, list[Any]] = defaultdict(list)
        self._step: Callable[[Any], Any] | None = None
        self._draws: dict[str, None] = {}
        self.moments: dict[str, Counter[int]] = defaultdict(Counter)

    # ---- moments -----------------------------------------------------------------------------------------------------

    def _moment(self, kind: str, what: str) -> None:
        """Count a moment, and kill this process if it is the chosen one."""
        if not self._is_at_work:
            return
        step, kill = self.run.step, self._kill
        self.moments[kind][step] += 1
        if kill is None or step < kill.step or kill.rank != self.run.ranks.rank:
            return
        if kill.kind == "clock" and not self._is_armed:
            self._is_armed = True
            self._report(Report("armed", step))
        if kind != kill.kind:
            return
        if step == kill.step and self._num_passed < kill.number:
            self._num_passed += 1
            return
        place = f" on rank {kill.rank}" if self.run.ranks.world_size > 1 else ""
        self._report(Report("killed", step, what=what + place))
        os.kill(os.getpid(), _SIGKILL)
        time.sleep(60)  # not one more instruction, on any thread

    def meet(self, members: Sequence[Member]) -> None:
        """Note the plugins of the run."""
        self._members = members

    def begin(self) -> None:
        """Start to count."""
        self._is_at_work = True
        if self.run.ranks.is_zero:
            self._report(Report("begun", *self._place(), num_steps=self.run.num_steps))
        self.run.optimizer.register_step_pre_hook(lambda *_: self._moment("step", "before the update of the weights"))
        self.run.optimizer.register_step_post_hook(lambda *_: self._moment("step", "after the update of the weights"))
        sys.addaudithook(self._audit)

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
        """Call a hook, with a moment before and after it."""
        if not hook.startswith("on_"):
            return run()
        if hook not in _BEFORE_LOADING:
            self._see_loaded()
        if hook == "on_checkpoint_saved":
            self._see_saved(arguments.get("path"))
        kind = "evaluation" if hook.startswith("on_evaluation") else _EVENT_KINDS.get(hook, "event")
        self._moment(kind, f"before {hook} of {member.table}")
        result = self._drawing(f"{member.table} {hook}", run)
        self._moment(kind, f"after {hook} of {member.table}")
        return result

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:
        """Put moments around the innermost step."""
        if is_wrapper and result is self._step:
            return result  # passed on: its contents belong to the loop
        self._built[member.table].append(result)
        if hook != "build_step" or is_wrapper:
            return result

        def step(batch: Any) -> Any:
            self._moment("step", "before a step")
            loss = self._drawing("model forward", partial(result, batch))
            self._moment("step", "at the end of a step")
            return loss

        self._step = step
        return step

    def reading(self, split: str, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches, with a moment before each."""
        self._see_loaded()
        for batch in batches:
            is_training = not self._is_at_work or self.run.model.training
            self._moment("step" if is_training else "evaluation", f"after reading a batch of the {split} split")
            yield batch

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count every operation on a file of a checkpoint as a moment."""
        folder = folder_of(self.run)
        if event in _FILE_EVENTS and folder and isinstance(arguments[0], str | os.PathLike):
            path = Path(os.fspath(arguments[0]))
            if path.is_relative_to(folder.path / "checkpoints"):
                self._moment("save", f"at {event.removeprefix('os.')} of {path.name} in {path.parent.name}")

    # ---- contents of plugins -----------------------------------------------------------------------------------------

    def _place(self) -> Place:
        return self.run.step, len(self.run.history)

    def _see_loaded(self) -> None:
        """Record the plugins right after their states were loaded."""
        if self._is_at_work and not self._is_loaded:
            self._is_loaded = True
            if self._order.role == "resume":
                self._write(seen_name(self._order.name, self._place(), is_resumed=True))

    def _see_saved(self, path: Path | None) -> None:
        from hookline.runs.disk.checkpoint import read_manifest

        # A checkpoint from a thread is of an earlier step: the plugins have changed since.
        name = seen_name(self._order.name, self._place())
        is_now = path is not None and read_manifest(path).step == self.run.step
        if is_now and not (Path(self._order.seen) / name).exists():
            self._write(name)

    def _write(self, name: str) -> None:
        if not self.run.ranks.is_zero:
            return
        place = self._place()
        seen = Seen(*place, held=self._held(), draws=list(self._draws))
        (Path(self._order.seen) / name).write_bytes(msgspec.json.encode(seen))

    def _held(self) -> dict[str, dict[str, str]]:
        from hookline.trials.proof.inside import inside, inside_modules, outside_generators

        run = self.run
        objects = [run, run.config, folder_of(run), run.model, run.optimizer, run.loss, run.data, self]
        owned = [*objects, *run.model.modules(), *run.data.splits().values()]
        instances = [member.instance for member in self._members]
        held: dict[str, dict[str, str]] = {OUTSIDE: outside_generators()}
        for member in self._members:
            besides = [*owned, *(other for other in instances if other is not member.instance)]
            held[member.table] = inside(member.instance, besides=besides)
            for built in self._built[member.table]:
                held[member.table] |= inside(built, besides=[*besides, member.instance])
        held["model"] |= inside_modules(run.model)
        for split, dataset in run.data.splits().items():
            held["data"] |= {f"{split}: {name}": text for name, text in inside(dataset).items()}
        return held

    def _drawing(self, what: str, run: Callable[[], Any]) -> Any:
        from hookline.trials.proof.inside import outside_generators

        before = outside_generators()
        try:
            return run()
        finally:
            if outside_generators() != before:
                self._draws[what] = None
