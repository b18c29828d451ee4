"""Run the trials of a sweep: in processes, several at a time, until all are done or a signal ends it."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess, SpawnProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, HooklineError
from hookline.engine import did_you_mean
from hookline.runs import RunRecord, change_tags, to_toml
from hookline_plugins.commands.sweeping.definition import Definition, Sweep
from hookline_plugins.commands.sweeping.prune import loss_in
from hookline_plugins.commands.sweeping.study import Study, TrialRow
from hookline_plugins.commands.sweeping.trial import OUTPUT, Trial, run_trial

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_KILLS = 5
"""How often a trial may be killed without a step in between, as by a lack of memory, before it counts as failed."""
_WRONG = (2, 3, 4, 5)
"""Exit codes of errors that a whole sweep has in common, if its first trial has one: see ``hookline.HooklineError``."""
_MAX_ERROR = 1000
_FORKS = sys.platform == "linux"
"""Whether a trial is a fork of this process, which has torch already; elsewhere forks are not safe."""


class Trials:
    """The trials of a sweep at work.

    Args:
        study: Its study.
        sweep: The sweep.
        options: Options of the command that choose plugins.
        told: Called with each trial that has ended.
        held: The descriptor that holds the folder of the sweep.

    Attributes:
        signal: The signal that ended it; 0: none.
    """

    def __init__(
        self,
        study: Study,
        sweep: Sweep,
        options: tuple[str, ...],
        told: Callable[[TrialRow], None],
        held: int,
    ) -> None:
        self._study, self._sweep, self._options, self._told = study, sweep, options, told
        self._held = held if _FORKS else None
        self._folder = study.folder.resolve()
        self._processes: dict[int, tuple[Trial, ForkProcess | SpawnProcess]] = {}
        self._kills: dict[int, tuple[int, int]] = {}
        self.signal = 0

    def run(self) -> None:
        """Carry them out, to the end of all or to a signal.

        Raises:
            HooklineError: When a trial fails before any has ended, by an error that the others would have as well.
        """
        (self._folder / OUTPUT).mkdir(exist_ok=True)
        with _noticed_signals(self._on_signal) as wakeup:
            _import_torch()
            try:
                while self._start_some() or self._processes:
                    sentinels = {process.sentinel: number for number, (_, process) in self._processes.items()}
                    for ready in wait([*sentinels, wakeup]):
                        if ready == wakeup:
                            os.read(wakeup, 64)
                        else:
                            self._collect(sentinels[ready])  # type: ignore[index] # a sentinel is a number
            finally:
                self._end()

    def _start_some(self) -> bool:
        """Start trials while there is room; return whether any was started."""
        unfinished = [number for number in self._study.unfinished if number not in self._processes]
        new = range(self._study.num_trials, self._sweep.num_trials)
        started = False
        for number in [*unfinished, *new]:
            if self.signal or len(self._processes) >= self._sweep.num_jobs:
                break
            self._start(number)
            started = True
        return started

    def _start(self, number: int) -> None:
        chosen = self._study.choose(number, self._sweep)
        definition, jobs = self._study.definition, self._sweep.num_jobs
        words = [
            *([definition.config] if definition.config else []),
            *self._sweep.overrides,
            *chosen,
            *_words_of(definition, self._folder, number),
        ]
        num_threads = max((os.cpu_count() or 1) // jobs, 1) if jobs > 1 else 0
        trial = Trial(number, self._folder, tuple(words), self._options, definition.folder, num_threads)
        context: Any = multiprocessing.get_context("fork" if _FORKS else "spawn")
        process = context.Process(target=run_trial, args=(trial, self._held))
        with warnings.catch_warnings():
            # The threads of NumPy's linear algebra are made for forks; no other ones run here.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        self._processes[number] = trial, process

    def _collect(self, number: int) -> None:
        """Take note of the end of a process."""
        trial, process = self._processes.pop(number)
        process.join()
        code = process.exitcode or 0
        found = trial.find_run()
        run, record = (found[0].name, found[1]) if found else ("", None)
        if found:
            change_tags(found[0], [_tag_of(self._folder)])
        if code == 0 and record:
            self._tell(trial, run, record)
        elif code < 0 or code > 128:
            self._note_kill(trial, run, record.step if record else 0)
        else:
            self._tell_failure(trial, run, record, code)

    def _tell(self, trial: Trial, run: str, record: RunRecord) -> None:
        definition, number = self._study.definition, trial.number
        names = [*definition.minimize, *definition.maximize] or [loss_in(record.metrics)]
        values = [record.metrics.get(name) for name in names]
        if missing := [name for name in names if name not in record.metrics]:
            message = f"trial {number} does not measure {missing[0]!r}"
            raise ConfigError(message, hint=did_you_mean(missing[0], record.metrics))
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        if len(numbers) < len(values):
            self._study.tell_failure(number, f"an objective is not finite: {', '.join(names)}", run=run)
        else:
            self._study.tell(number, numbers, run=run, is_pruned=self._study.is_pruned(number))
        self._told(self._study.rows()[number])

    def _note_kill(self, trial: Trial, run: str, step: int) -> None:
        """Count a kill; the trial stays unfinished, and is started again."""
        if self.signal:
            return
        before, count = self._kills.get(trial.number, (step, 0))
        count = count + 1 if step == before else 1
        self._kills[trial.number] = step, count
        if count >= _MAX_KILLS:
            self._study.tell_failure(trial.number, f"it was killed {count} times at step {step}", run=run)
            self._told(self._study.rows()[trial.number])

    def _tell_failure(self, trial: Trial, run: str, record: RunRecord | None, code: int) -> None:
        error = (record.attempts[-1].error if record and record.attempts else None) or _last_words(trial.output)
        if code in _WRONG and not any(row.state in ("complete", "pruned") for row in self._study.rows()):
            # It is not told as failed, so that the same command tries it again.
            hint = f"all that it printed is in {trial.output}"
            raise HooklineError(f"trial {trial.number} failed: {error}", hint=hint)
        self._study.tell_failure(trial.number, error or f"exit code {code}", run=run)
        self._told(self._study.rows()[trial.number])

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """End the trials after their step; a second signal ends them at once."""
        for _, process in self._processes.values():
            (process.kill if self.signal else process.terminate)()
        self.signal = self.signal or number

    def _end(self) -> None:
        """End the trials that an error left behind."""
        for _, process in self._processes.values():
            process.terminate()
        for _, process in self._processes.values():
            process.join()


def _tag_of(folder: Path) -> str:
    """Return the name of a folder as a tag, which has no spaces and no commas."""
    return "".join(char if char.isprintable() and char not in " ," else "-" for char in folder.name[:50])


def _import_torch() -> None:
    """Import torch here, so that a fork begins its trial at once; a new process needs seconds for it."""
    from hookline import Run  # noqa: F401 - for its import


def _words_of(definition: Definition, folder: Path, number: int) -> list[str]:
    """Return the overrides by which a trial reports its first objective."""
    names = [*definition.minimize, *definition.maximize]
    monitor = f"monitor={to_toml(names[0])}" if names else ""
    found = [f"callbacks.run-folder.{monitor}"] if monitor else []
    found += ["callbacks.run-folder.mode=max"] if names and not definition.minimize else []
    if definition.prune:
        found += [
            "callbacks.prune.use=prune",
            f"callbacks.prune.folder={to_toml(str(folder))}",
            f"callbacks.prune.trial={number}",
        ]
        found += [f"callbacks.prune.{monitor}"] if monitor else []
    return found


def _last_words(path: Path) -> str:
    """Return the last error in the output of a trial, in one line; empty without one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    _, mark, error = text.rpartition("error: ")
    return error.split("\n\n")[0].split("\n")[0][:_MAX_ERROR] if mark else ""


@contextmanager
def _noticed_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[int]:
    """Handle the signals that end a command; yield a descriptor that can be read after one."""
    numbers = [
        number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
    ]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before: Mapping[Any, Any] = {
        number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
    }
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(former)
        for number, earlier in before.items():
            signal.signal(number, earlier)
        os.close(reading)
        os.close(writing)
