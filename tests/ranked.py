"""The command ``hookline`` in several ranks for a test: forks of this process, so that no rank imports torch again.

The launcher and the command line are the real ones; only the start of a program is a fork of this one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo
import torch.distributed

import hookline.cli.commands.main
import hookline.cli.commands.runs
import hookline.engine.loop.run
import hookline.ranks.process_group
import hookline.ranks.watch
import hookline.runs.resuming
from hookline.cli import main
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.runs import RunRecord
from support import HANG_S

# What every rank would import: the forks have it.
_ = (torch._dynamo, hookline.cli.commands, hookline.engine, hookline.ranks, hookline.runs)
distributed: Any = torch.distributed  # some of its names are not exported for type checkers
_CATALOG = Catalog.installed()
load_config({"parallel": "ddp", "callbacks": {"run-folder": {}, "checkpoint": {}, "progress": {}}}, catalog=_CATALOG)


class Forked(subprocess.Popen[bytes]):
    """A process that runs ``hookline`` as a fork of this one, in place of a new interpreter."""

    def _execute_child(self, args: Sequence[str], *others: Any) -> None:
        env = next(one for one in others if isinstance(one, Mapping))
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        run_command(args[args.index("hookline") + 1 :], env)


def run_command(words: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Run ``hookline`` with these words in this process, and end it."""
    os.environ.clear()
    os.environ.update(env)
    for number, name in enumerate(("stdout", "stderr"), 1):
        setattr(sys, name, open(number, "w", closefd=False, buffering=1))  # noqa: SIM115
    sys.argv = ["hookline", *words]
    code: Any = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code or 0)


@dataclass
class Ended:
    """How a command ended: its exit code, what it wrote, and how long it took from the last signal or the start."""

    code: int
    out: str
    err: str
    took_s: float


class Command:
    """A command in a folder: ``Command(folder, "train", "--nproc", "2")``."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.folder = folder
        self._ended = False
        self._begun = time.monotonic()
        number = f"{time.monotonic_ns()}"
        self._streams = [folder / f"{name}-{number}.txt" for name in ("out", "err")]
        torch.set_num_threads(1)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        os.chdir(folder)
        os.setpgid(0, 0)
        for descriptor, path in enumerate(self._streams, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        subprocess.Popen = Forked  # type: ignore[misc, assignment] # the only program that it starts is this one
        run_command(words, {**os.environ, **environment})

    def ranks(self) -> list[int]:
        """Return the IDs of the processes of the ranks, in their order."""
        with contextlib.suppress(OSError):  # it has ended
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            return sorted(map(int, children))
        return []

    def is_running(self) -> bool:
        """Return whether it has not ended yet."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait_for(self, happens: Callable[[], Any]) -> Any:
        """Wait until something happens while the command runs; return it."""
        end = time.monotonic() + HANG_S
        while not (found := happens()):
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), [path.read_text() for path in self._streams]
            assert time.monotonic() < end
            time.sleep(0.01)
        return found

    def wait_for_step(self, step: int) -> None:
        """Wait until a checkpoint of this step or a later one is saved."""
        self.wait_for(lambda: newest_step(self.folder) >= step)

    def send(self, number: int, pid: int | None = None) -> None:
        """Send a signal to the launcher, or to another process."""
        self._begun = time.monotonic()
        os.kill(pid or self.pid, number)

    def kill(self) -> None:
        """Kill it, and its ranks, unless it has ended."""
        if not self._ended:
            for pid in (*self.ranks(), self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True

    def end(self) -> Ended:
        """Wait for the end."""
        limit = time.monotonic() + HANG_S
        while (found := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < limit, [path.read_text() for path in self._streams]
            time.sleep(0.01)
        self._ended = True
        took_s = time.monotonic() - self._begun
        out, err = (path.read_text() for path in self._streams)
        return Ended(os.waitstatus_to_exitcode(found[1]), out, err, took_s)


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint; 0 without one."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("runs/0*/checkpoints/step-*")), default=0)


def record_of(folder: Path) -> RunRecord:
    import msgspec

    [path] = folder.glob("runs/0*/run.json")
    return msgspec.json.decode(path.read_bytes(), type=RunRecord)


def listening_addresses(pid: int) -> list[str]:
    """Return the addresses at which a process listens for connections by TCP."""
    own = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    found: list[str] = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in own:
                address = local.partition(":")[0]
                found.append(".".join(str(byte) for byte in reversed(bytes.fromhex(address))))
    return found


class TorchrunJob:
    """What torchrun does on one machine: it starts the ranks, each with its variables, and starts them again."""

    def __init__(self, folder: Path, num_ranks: int = 2) -> None:
        self._folder, self._num_ranks, self._num_attempts = folder, num_ranks, 0
        # Torchrun keeps its store for all attempts.
        store: Any = distributed  # torch exports its stores without a declaration
        self._store = store.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._own = Path(tempfile.mkdtemp(prefix="none_", dir=folder))

    def attempt(self, *words: Sequence[str]) -> list[Ended]:
        """Start the ranks, each with the last words that there are for it, and wait for their end."""
        commands = []
        for rank in range(self._num_ranks):
            place = self._own / f"attempt_{self._num_attempts}" / str(rank)
            place.mkdir(parents=True)
            env = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self._num_ranks, "LOCAL_WORLD_SIZE": self._num_ranks,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self._store.port, "GLOO_SOCKET_IFNAME": "lo",
                "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RUN_ID": "none",
                "TORCHELASTIC_RESTART_COUNT": self._num_attempts,
                "TORCHELASTIC_ERROR_FILE": place / "error.json",
            }  # fmt: skip
            values = {name: str(value) for name, value in env.items()}
            commands.append(Command(self._folder, *words[min(rank, len(words) - 1)], **values))
        self._num_attempts += 1
        try:
            return [command.end() for command in commands]
        finally:
            for command in commands:
                command.kill()
