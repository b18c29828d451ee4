"""``Driver``: trains the two runs of a proof in processes, kills one of them again and again, and compares both."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hookline.config.references import escaped
from hookline.config.run_config import Setting
from hookline.engine.errors import CheckpointError, ConfigError, HooklineError, TrainingError
from hookline.trials.proof.witness import Order, Report

if TYPE_CHECKING:
    from hookline.trials.proof.kills import Kill, Place
    from hookline.trials.proof.verdict import Proof


ORIGIN = "prove-resume"
"""Origin of the config values that a proof sets."""
_NUM_STATES = 20
"""Default number of states to compare: each costs the time and the space of two saves."""
_POLL_S = 0.01
_MAX_LINES = 20
"""Maximum number of lines shown of the output of a process that died."""


def first_order(
    folder: Path,
    words: Sequence[str],
    *,
    files: Sequence[str],
    allow: Sequence[str],
    deny: Sequence[str],
    num_ranks: int = 1,
) -> Order:
    """Return the order that all orders of a proof are derived from.

    Args:
        folder: The folder of the proof; everything that its processes leave is saved in it.
        words: The words of the command line that define the run.
        files: Plugin files that the run may use.
        allow: The only distributions whose plugins it may use.
        deny: Distributions whose plugins it may not use.
        num_ranks: Number of ranks that train it.
    """
    return Order(
        role="look",
        name="look",
        words=words,
        files=files,
        allow=allow,
        deny=deny,
        parent=str(folder / "whole"),
        every_steps=1,
        seen=str(folder / "seen"),
        reports=str(folder / "look.jsonl"),
        num_ranks=num_ranks,
    )


class Driver:
    """Driver of a proof: runs its processes one after the other, and compares the runs that they leave.

    Args:
        folder: The folder of the proof.
        command: Command that starts a process; the process reads its order from standard input.
        order: The first order.
        settings: Settings of the config of the run.
        secrets: The values of it that a run folder does not store.
        on_part: Receives the name and the result of each part of the work.
        on_note: Receives notes.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        order: Order,
        settings: Mapping[str, Setting],
        secrets: Mapping[str, Any],
        *,
        on_part: Callable[[str, str], None],
        on_note: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._command = command
        self._order = order
        self._on_part = on_part
        self._on_note = on_note
        self._tables = frozenset(key.rpartition(".")[0] for key, s in settings.items() if s.origin.layer == ORIGIN)
        # A run folder stores no secrets, so a resumed run needs them again.
        self._secrets = secrets

    def prove(self, num_kills: int, seed: int, every_steps: int | None) -> tuple[Proof, list[Report]]:
        """Train both runs and compare them.

        Args:
            num_kills: Number of kills.
            seed: Seed of the kills.
            every_steps: Number of steps between two compared states; None for about 20 states.

        Returns:
            The proof, and a report of each kill that was carried out.

        Raises:
            HooklineError: When a process fails; of the class with which it failed, or ``CheckpointError`` for one that
                resumed the run.
        """
        from hookline.trials.proof.comparing import compare
        from hookline.trials.proof.evidence import Evidence
        from hookline.trials.proof.kills import choose_kills

        Path(self._order.seen).mkdir()
        if every_steps is None:
            # The length of a stream is unknown until it ends.
            num_steps = self._work("look").num_steps or _NUM_STATES**2
            every_steps = max(1, num_steps // _NUM_STATES)
        self._order.every_steps = every_steps
        whole = self._work("whole", role="train")
        self._on_part("not interrupted", f"{whole.step} steps in {whole.seconds:.1f} s, a state every {every_steps}")
        step_s = whole.seconds / max(whole.step, 1)
        num_ranks = self._order.num_ranks
        kills = choose_kills(whole.moments, num_kills, seed, after=every_steps, step_s=step_s, num_ranks=num_ranks)
        self._on_part("kills", f"{len(kills)}, drawn with --seed {seed}")
        begun, done, folder = self._train_killed(kills)
        self._on_part("comparing", "every state, the metrics, the final weights")
        return compare(Evidence(Path(whole.folder), folder, Path(self._order.seen), self._tables, begun)), done

    def _train_killed(self, kills: Sequence[Kill]) -> tuple[list[Place], list[Report], Path]:
        """Train the run that is killed; return the place where each process began, the kills, and the run folder."""
        self._order.parent = str(self._folder / "killed")
        begun: list[Place] = []
        done: list[Report] = []
        for number, kill in enumerate([*kills, None]):
            folder = _newest_run(Path(self._order.parent))
            name = str(number)
            # Killed before it had a folder, the run starts again.
            if number == 0 or folder is None:
                last = self._work(name, role="train", kill=kill)
            else:
                last = self._work(name, role="resume", run=str(folder), overrides=escaped(self._secrets), kill=kill)
            begin = next(report for report in self._reports(name) if report.event == "begun")
            begun.append((begin.step, begin.epochs))
            resumed = f"resumed from step {begin.step}, " if number else ""
            if last.event == "ended":
                self._on_part("ended", f"{resumed}{last.step} steps")
                if late := len(kills) - len(done):
                    self._on_note(f"{late} of the kills came too late: the run was over")
                return begun, done, Path(last.folder)
            done.append(last)
            self._on_part(f"kill {number + 1} of {len(kills)}", f"{resumed}killed after {last.step} steps, {last.what}")
        raise AssertionError("the last process is not killed")

    def _work(self, name: str, **changes: Any) -> Report:
        """Run a process and return its last report."""
        reports = str(self._folder / f"{name}.jsonl")
        order = msgspec.structs.replace(self._order, name=name, reports=reports, **changes)
        with (self._folder / f"{name}.txt").open("wb") as printed:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT)  # noqa: S603 - the caller's own command
        try:
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(msgspec.json.encode(order))
            code = self._wait(process, name, order.kill)
        finally:
            # Whatever happens, no process is left behind.
            process.kill()
            process.wait()
        reported = self._reports(name)
        last = _decisive(reported)
        if last.event == "armed":
            assert order.kill is not None, "only a kill arms it"
            return Report("killed", last.step, what=f"{order.kill.delay_s * 1e3:.0f} ms later by the clock")
        if last.event in ("begun", "failed"):
            raise self._error(order, last, code)
        return last

    def _wait(self, process: subprocess.Popen[bytes], name: str, kill: Kill | None) -> int:
        """Wait for a process to end; kill it when its clock runs out."""
        if kill is None or kill.kind != "clock":
            return process.wait()
        while process.poll() is None:
            if any(report.event == "armed" for report in self._reports(name)):
                time.sleep(kill.delay_s)
                process.kill()
            time.sleep(_POLL_S)
        return process.returncode

    def _reports(self, name: str) -> list[Report]:
        """Return the reports of a process so far."""
        try:
            lines = (self._folder / f"{name}.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line, type=Report) for line in lines[:-1]]

    def _error(self, order: Order, last: Report, code: int) -> HooklineError:
        reason = last.what
        if last.event == "begun":
            printed = (self._folder / f"{order.name}.txt").read_text(errors="replace").splitlines()
            reason = "\n".join([f"its process exited with code {code}", *printed[-_MAX_LINES:]])
        if order.role == "resume":
            return CheckpointError(f"the run cannot be resumed after kill {order.name}: {reason}")
        message = "the run cannot be built" if order.role == "look" else "the run fails without interruption"
        classes = {kind.__name__: kind for kind in HooklineError.__subclasses__()}
        return classes.get(last.kind, TrainingError)(f"{message}: {reason}")


def _decisive(reports: Sequence[Report]) -> Report:
    """Return the report that says how a process ended; when a rank is killed, the others fail."""
    causes = [report for report in reports if report.event in ("killed", "failed") and report.kind != "PeerError"]
    return [*causes, *reports[-1:], Report("begun")][0]


def _newest_run(parent: Path) -> Path | None:
    """Return the newest run in a folder that has a record; None without one."""
    from hookline.runs.names import run_paths
    from hookline.runs.record import read_record

    for path in reversed(run_paths(parent)):
        with contextlib.suppress(ConfigError):
            read_record(path)
            return path
    return None
