"""The process of a trial: ``hookline train``, or ``hookline resume`` once it has a run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from hookline import ConfigError
from hookline.runs import RunRecord, read_record, run_names, to_toml

OUTPUT = "output"
"""Folder with what each trial printed, beside the run folders of a sweep."""
_DONE = ("completed", "stopped")


@dataclass(frozen=True)
class Trial:
    """A trial to carry out.

    Attributes:
        number: Its number.
        sweep: Absolute path of the folder of the sweep.
        words: The config file and overrides, as for ``hookline train``.
        options: Options of the command that choose plugins.
        folder: The folder to work in, where relative paths begin.
        num_threads: Number of threads for torch; 0: torch's default.
    """

    number: int
    sweep: Path
    words: tuple[str, ...]
    options: tuple[str, ...]
    folder: str
    num_threads: int

    @property
    def name(self) -> str:
        """Name of its run folder, after the number."""
        return f"trial-{self.number}"

    @property
    def output(self) -> Path:
        """The file with what it printed."""
        return self.sweep / OUTPUT / f"{self.name}.txt"

    def find_run(self) -> tuple[Path, RunRecord] | None:
        """Return its newest run folder with the record; None if there is none yet."""
        for name in reversed(run_names(self.sweep)):
            if name.partition("-")[2] == self.name:
                with contextlib.suppress(ConfigError):  # killed before it wrote the record
                    return self.sweep / name, read_record(self.sweep / name)
        return None

    def command(self) -> list[str] | None:
        """Return the words of the command that begins it or continues it; None if it is done."""
        found = self.find_run()
        if found is None:
            named = ("callbacks.run-folder.use=run-folder", f"callbacks.run-folder.name={self.name}")
            parent = f"callbacks.run-folder.parent={to_toml(str(self.sweep))}"
            return ["train", *self.words, *named, parent, "--quiet", *self.options]
        path, record = found
        return None if record.status in _DONE else ["resume", str(path), "--quiet", *self.options]


def run_trial(trial: Trial, held: int | None) -> None:
    """Carry out a trial in this process, which is its own, to the end of the process.

    A process that worked on it for a sweep that was killed is awaited first: it holds a lock on the output.

    Args:
        trial: The trial.
        held: A descriptor that the process inherited, and that holds the folder for the sweep alone.
    """
    from filelock import lock_descriptor

    if held is not None:
        os.close(held)
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal is for the sweep, which ends its trials
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    output = os.open(trial.output, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    with contextlib.suppress(OSError):  # a file system without locks
        lock_descriptor(output)
    words = trial.command()
    if words is None:
        return
    for stream in (1, 2):
        os.dup2(output, stream)
    # The objects of the process that this one was forked from may be anything, such as those of a test.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - to the end of the process
    sys.stderr = open(2, "w", 1, closefd=False)  # noqa: SIM115 - likewise
    os.chdir(trial.folder)
    sys.argv[:] = ["hookline", *words]
    if trial.num_threads:
        import torch

        torch.set_num_threads(trial.num_threads)
    from hookline.cli import main

    main()
