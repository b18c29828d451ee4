"""The start of the ranks of a command on this machine, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hookline.engine.errors import PeerError
from hookline.ranks.agreed import INTERRUPTED, LAUNCHER, LOOPBACK, STORE, TERMINATED, told_key

_POLL_S = 0.05
_CLOSE_S = 30.0
"""Seconds in which a rank closes its plugins after another has failed, as torchrun gives."""
_NOTICE_S = 3.0
"""Seconds in which a rank notices that another has failed, unless it is within a long step."""
_HANG_S = 1.0
"""Seconds for which a rank is waited for that all others have given up."""
_SECOND_S = 5.0
"""Seconds from a second signal to the end; rank 0 has as long again to record that the others are gone."""


def launch(num_ranks: int, words: Sequence[str], module: str = "hookline") -> int:
    """Run a module with these words in several processes, and return the exit code of the run.

    Signals are passed on. When a rank fails, the others are ended. The exit code is that of the rank that failed, and
    8 if it was killed or hangs.

    Args:
        num_ranks: Number of processes; the processors are shared out between them.
        words: The words of the command line.
        module: The module, as for ``python -m``.

    Raises:
        PeerError: When a rank was killed, and no other is left to say so.
    """
    command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", module, *words]
    with tempfile.TemporaryDirectory(prefix="hookline-ranks-") as folder:
        launched = _Launched(Path(folder) / "store")
        with launched.passing_signals_on():
            launched.start(command, num_ranks)
            codes = launched.wait()
        return _exit_code(codes, launched.signals)


def _exit_code(codes: dict[int, int], signals: Sequence[int]) -> int:
    """Return the exit code of the run from those of the ranks, in the order in which they ended."""
    own = [code for code in codes.values() if code > 0]
    causes = [code for code in own if code != PeerError.exit_code]
    if causes and not (signals and causes[0] == INTERRUPTED):  # a second signal of any kind ends a rank like Ctrl-C
        return causes[0]
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    rank, number = next(iter(killed.items()), (0, 0))
    ending = signals[0] if signals and (killed or causes) else number
    if ending in _ending_signals():
        return INTERRUPTED if ending == signal.SIGINT else TERMINATED
    if killed and not own:
        message = f"rank {rank} of {len(codes)} was ended by {signal.Signals(number).name}"
        raise PeerError(message, hint="look for a lack of memory on this machine; resume the run if it has begun")
    return PeerError.exit_code if own else 0


def _ending_signals() -> list[int]:
    """Return the signals that end a run, of those that this system has."""
    names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    return [number for name in names if (number := getattr(signal, name, None)) is not None]


class _Launched:
    """The processes of the ranks.

    Attributes:
        signals: The signals that were passed on.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._processes: list[subprocess.Popen[bytes]] = []
        self._asked: set[int] = set()
        self._second = float("inf")
        self.signals: list[int] = []

    def start(self, command: Sequence[str], num_ranks: int) -> None:
        """Start the ranks; in groups of their own, so that Ctrl-C in a terminal reaches each only once."""
        for rank in range(num_ranks):
            environment = os.environ | _environment(rank, num_ranks, self._store)
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - this very program
            self._processes.append(process)
            if self.signals:
                break

    def wait(self) -> dict[int, int]:
        """Wait until all ranks have ended, and return their exit codes in that order, negative for a signal."""
        codes: dict[int, int] = {}
        failed_at = None
        while len(codes) < len(self._processes):
            for rank, process in enumerate(self._processes):
                if rank not in codes and process.poll() is not None:
                    codes[rank] = process.returncode
            if any(codes.values()):
                failed_at = failed_at or time.monotonic()
                self._end_others(codes, time.monotonic() - failed_at)
            late_s = time.monotonic() - self._second
            if late_s > _SECOND_S:
                self._send(signal.SIGKILL, self._processes[1:])
            if late_s > 2 * _SECOND_S:
                self._send(signal.SIGKILL, self._processes)
            time.sleep(_POLL_S)
        return codes

    def _end_others(self, codes: dict[int, int], late_s: float) -> None:
        """End the ranks that stay on: one that hangs soon, one that has noticed the failure only when it is stuck."""
        is_cause_gone = any(code not in (0, PeerError.exit_code) for code in codes.values())
        told = self._store.read_bytes() if self._store.exists() else b""
        for rank in range(len(self._processes)):
            if rank in codes:
                continue
            has_noticed = told_key(rank).encode() in told
            if late_s > _CLOSE_S or (late_s > _HANG_S and not has_noticed and not is_cause_gone):
                self._processes[rank].kill()
            elif late_s > _NOTICE_S and not has_noticed and rank not in self._asked:
                self._asked.add(rank)
                self._processes[rank].terminate()

    def _send(self, number: int, processes: Iterable[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.send_signal(number)

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Pass the signals that end a run on to all ranks; after a second one, they are killed soon, rank 0 last."""

        def handler(number: int, _: FrameType | None) -> None:
            if self.signals:
                self._second = min(self._second, time.monotonic())
            self.signals.append(number)
            self._send(number, self._processes)

        wanted = [number for number in _ending_signals() if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handler) for number in wanted}
        try:
            yield
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)


def _environment(rank: int, num_ranks: int, store: Path) -> dict[str, str]:
    """Return the variables of a rank: those of torchrun, the place of the store, and its launcher."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    threads = max(len(os.sched_getaffinity(0)) // num_ranks, 1) if hasattr(os, "sched_getaffinity") else 1
    return {
        **{name: str(value) for name, value in places.items()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", LOOPBACK),
        STORE: str(store),
        LAUNCHER: str(os.getpid()),
    }
