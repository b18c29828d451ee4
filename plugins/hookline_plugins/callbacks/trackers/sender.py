"""``Sender``: passes the points of a run to the process that sends them, from a thread, so that the run never waits."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec

from hookline_plugins.callbacks.trackers.points import Job, Point
from hookline_plugins.callbacks.trackers.sending import Result

_PROGRAM = "hookline_plugins.callbacks.trackers.sending"
_END_S = 5.0
"""Time in which a process without a job ends: it only has to notice that its input is closed."""


class Sender(threading.Thread):
    """Sends the points that are released, in their order, and keeps each until the tracker has it.

    Args:
        make_job: Returns a job for points, the number of those before, and whether it is the last one.
        least: Number of points that are worth a job; 0: the first job has none, and announces the run.
        pause_s: Seconds between two jobs.
        timeout_s: Seconds after which a job fails.
    """

    def __init__(
        self,
        make_job: Callable[[list[Point], int, bool], Job],
        *,
        least: int,
        pause_s: float,
        timeout_s: float,
    ) -> None:
        super().__init__(name="hookline tracker", daemon=True)
        self._make_job = make_job
        self._first, self._points = 0, list[Point]()
        self._least, self._pause_s, self._timeout_s = least, pause_s, timeout_s
        self._released = 0
        self._wake = threading.Condition()
        self._is_closing = self._is_over = self._is_failing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""

    @property
    def waiting(self) -> tuple[int, list[Point]]:
        """The points that the tracker may lack, and the number of those before."""
        with self._wake:
            return self._first, list(self._points)

    @property
    def count(self) -> int:
        """Number of points of the run so far."""
        with self._wake:
            return self._first + len(self._points)

    def load(self, first: int, points: list[Point]) -> None:
        """Continue with points that the tracker may lack, after the number of those before, and start to send them."""
        with self._wake:
            self._first, self._points, self._released = first, points, first + len(points)
        if self.ident is None:
            self.start()

    def add(self, point: Point) -> None:
        """Add a point."""
        with self._wake:
            self._points.append(point)

    def release(self, count: int) -> None:
        """Let the first ``count`` points of the run be sent."""
        with self._wake:
            self._released = max(self._released, count)
            self._wake.notify()

    def new_problem(self) -> str:
        """Return why a job failed, unless the one before failed, too; once."""
        with self._wake:
            problem, self._problem = self._problem, ""
            return problem

    def close(self) -> int:
        """Send what is released within the time of a job, end, and return the number of released points not sent."""
        if self.ident is None:
            return 0  # the run could not load its state
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self.join(self._timeout_s)
        if self.is_alive():
            self._is_over = True
            self._kill()
            self.join(_END_S)
        return max(self._released - self._first, 0)

    def run(self) -> None:
        """Send points until the run is over."""
        least = self._least
        while self._is_due(least):
            self._send(is_last=False)
            with self._wake:
                # No pause after the job that announces the run.
                self._wake.wait_for(lambda: self._is_closing, self._pause_s if least or self._is_failing else 0)
            least = max(self._least, 1)
        if not self._is_over:
            self._send(is_last=True)
        self._end()

    def _is_due(self, least: int) -> bool:
        """Wait until there are ``least`` points to send, and return True; or False if the run is over before."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_closing or self._released - self._first >= least)
            return not self._is_closing

    def _send(self, *, is_last: bool) -> None:
        with self._wake:
            first, points = self._first, self._points[: max(self._released - self._first, 0)]
        result = self._result_of(self._make_job(points, first, is_last))
        with self._wake:
            if not result.error:
                num_sent = min(max(result.sent - first, 0), len(self._points))
                del self._points[:num_sent]
                self._first += num_sent
            elif not self._is_failing:
                self._problem = result.error
            self._is_failing = bool(result.error)

    def _result_of(self, job: Job) -> Result:
        """Return the result of a job; when its time is over, its process is ended."""
        deadline = threading.Timer(self._timeout_s, self._kill)
        deadline.start()
        line, why = b"", "its process ended"
        try:
            process = self._process = self._process or _started()
            assert process.stdin is not None
            assert process.stdout is not None
            # Python's own JSON has NaN and infinity.
            process.stdin.write(json.dumps(msgspec.to_builtins(job)).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError as error:
            why = str(error)
        is_late = self._is_over or deadline.finished.is_set()
        deadline.cancel()
        deadline.join()
        if line:
            return msgspec.json.decode(line, type=Result)
        self._end()
        return Result(error=f"no answer in {self._timeout_s:g} s" if is_late else why)

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _end(self) -> None:
        """End the process, which has no job."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes its streams, and waits
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.communicate(timeout=_END_S)
            process.kill()


def _started() -> subprocess.Popen[bytes]:
    # -P: no file in the current folder can pass for a package. In a session of its own, Ctrl-C does not reach it.
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-P", "-W", "ignore", "-m", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
