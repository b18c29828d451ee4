"""The command that proves that a run resumes exactly: it starts processes, kills them, and compares what they leave."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hookline.cli.arguments import choosing, load_words, printing, words_argument
from hookline.cli.output import Output
from hookline.cli.printing.plan import plan_lines
from hookline.cli.proof_child import PUT_OVER, proof_config
from hookline.engine.errors import CheckpointError, ConfigError, HooklineError, TrainingError
from hookline.engine.plugin.catalog import Catalog
from hookline.engine.plugin.options import is_plain
from hookline.runs.redaction import is_secret
from hookline.trials.proof.witness import Order, Report

if TYPE_CHECKING:
    from hookline.trials.proof.kills import Kill, Place
    from hookline.trials.proof.verdict import Proof


_NUM_STATES = 20
"""How many states are compared if nobody says: each costs the time and the space of two saves."""
_POLL_S = 0.01
_TOLD_LINES = 20
_WIDTH = 15


@click.command("prove-resume")
@words_argument
@click.option("--kills", "num_kills", type=click.IntRange(min=1), default=5, show_default=True, help="How many kills.")
@click.option("--every-steps", type=click.IntRange(min=1), metavar="K", help="Steps from one state to the next.")
@click.option("--seed", type=click.IntRange(min=0), help="Where the kills are drawn from; else it is drawn itself.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="A new folder in which both runs stay.")
@printing
@choosing
def prove_resume(
    output: Output,
    catalog: Catalog,
    words: Sequence[str],
    num_kills: int,
    every_steps: int | None,
    seed: int | None,
    keep: Path | None,
) -> None:
    """Prove that a run, with its plugins, resumes exactly: train it, kill and resume it, and compare every bit.

    The run is trained once without interruption, and once killed at random points and resumed each time.
    """
    config = load_words(words, catalog)
    for line in plan_lines(config):
        output.prose(line)
    output.prose("\nproving that this run resumes exactly")
    if limit_s := config.train.max_time_s:
        told = f"train.max_time_s = {limit_s:g} is left out, for by the clock no two runs end alike"
        output.note(f"note: {told}; bound the run with train.max_steps")
    if seed is None:
        seed = secrets.randbelow(10**6)
    with _folder(keep) as folder:
        trial = _Trial(output, catalog, folder, words)
        proof, done = trial.prove(num_kills, seed, every_steps)
        _tell_verdict(output, proof, done, seed)
        if keep:
            output.prose(f"both runs are kept in {keep}")
        if proof.divergence:
            raise proof.divergence.error()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder for both runs: a new one that stays, or one that goes."""
    if keep is None:
        # What is left of a killed run may be busy for a moment more.
        with tempfile.TemporaryDirectory(prefix="hookline-proof-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{keep} cannot be made: {error.strerror}", hint="name a new folder with --keep") from error
    yield keep.resolve()


def _tell_verdict(output: Output, proof: Proof, done: Sequence[Report], seed: int) -> None:
    steps = [report.step for report in done]
    divergence = proof.divergence
    if output.json:
        output.event(
            "proof",
            exact=divergence is None,
            states=proof.num_states,
            tensors=proof.tally.tensors,
            values=proof.tally.values,
            metrics_lines=proof.num_lines,
            kills=[{"step": report.step, "what": report.what} for report in done],
            seed=seed,
            where=divergence.where if divergence else None,
            path=divergence.first.path if divergence else None,
            how=divergence.first.how if divergence else None,
            largest=divergence.first.largest if divergence else None,
            owner=divergence.owner if divergence else None,
        )
    elif divergence is None:
        held = f"{_count(proof.tally.tensors, 'tensor')} and {_count(proof.tally.values, 'value')} in all"
        what = f"{_count(proof.num_states, 'state')} with {held}, {_count(proof.num_lines, 'line')} of metrics"
        kills = f"{_count(len(steps), 'kill')} (after {', '.join(map(str, steps))} steps)"
        output.line(f"exact: {what} and the final weights are the same to the last bit after {kills}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


class _Trial:
    """Both runs of a proof: their processes, one after the other, and the folder in which they leave what they leave.

    Args:
        output: Where it is told how it goes.
        catalog: The plugins that may be used.
        folder: The folder.
        words: The words that make the run.
    """

    def __init__(self, output: Output, catalog: Catalog, folder: Path, words: Sequence[str]) -> None:
        self._output = output
        self._folder = folder
        self._seen = folder / "seen"
        self._seen.mkdir()
        given = click.get_current_context().params
        self._base = Order(
            role="look",
            name="look",
            words=words,
            files=given["files"],
            allow=given["allow"],
            deny=given["deny"],
            parent=str(folder / "whole"),
            every_steps=1,
            seen=str(self._seen),
            reports=str(folder / "look.jsonl"),
        )
        # A run folder keeps no secrets: who resumes the run has to bring them.
        settings = proof_config(self._base, catalog).settings
        self._tables = frozenset(key.rpartition(".")[0] for key, s in settings.items() if s.origin.layer == PUT_OVER)
        self._secrets = {key: s.value for key, s in settings.items() if is_secret(key) and is_plain(s.value)}

    def prove(self, num_kills: int, seed: int, every_steps: int | None) -> tuple[Proof, list[Report]]:
        """Train both runs, and compare them; return what came of it, and the kills that were done."""
        from hookline.trials.proof.comparing import compare
        from hookline.trials.proof.evidence import Evidence
        from hookline.trials.proof.kills import choose_kills

        if every_steps is None:
            # A run that does not know its length is told by nothing but its end.
            num_steps = self._work("look").num_steps or _NUM_STATES**2
            every_steps = max(1, num_steps // _NUM_STATES)
        self._base.every_steps = every_steps
        whole = self._work("whole", role="train")
        self._tell("not interrupted", f"{whole.step} steps in {whole.seconds:.1f} s, a state every {every_steps}")
        step_s = whole.seconds / max(whole.step, 1)
        kills = choose_kills(whole.moments, num_kills, seed, after=every_steps, step_s=step_s)
        self._tell("kills", f"{len(kills)}, drawn with --seed {seed}")
        begun, done, folder = self._train_killed(kills)
        self._tell("comparing", "every state, the metrics, the final weights")
        return compare(Evidence(Path(whole.folder), folder, self._seen, self._tables, begun)), done

    def _train_killed(self, kills: Sequence[Kill]) -> tuple[list[Place], list[Report], Path]:
        """Train the run that is killed; return where each of its processes began, the kills, and its folder."""
        self._base.parent = str(self._folder / "killed")
        begun: list[Place] = []
        done: list[Report] = []
        for number, kill in enumerate([*kills, None]):
            folder = _newest_run(Path(self._base.parent))
            name = str(number)
            # Killed before it had a folder, it begins anew.
            if number == 0 or folder is None:
                last = self._work(name, role="train", kill=kill)
            else:
                last = self._work(name, role="resume", run=str(folder), overrides=self._secrets, kill=kill)
            begin = next(report for report in self._reports(name) if report.event == "begun")
            begun.append((begin.step, begin.epochs))
            came = f"resumed from step {begin.step}, " if number else ""
            if last.event == "ended":
                self._tell("ended", f"{came}{last.step} steps")
                if late := len(kills) - len(done):
                    self._output.note(f"note: {late} of the kills came too late: the run was over")
                return begun, done, Path(last.folder)
            done.append(last)
            self._tell(f"kill {number + 1} of {len(kills)}", f"{came}killed after {last.step} steps, {last.what}")
        raise AssertionError("the last process is not killed")

    def _work(self, name: str, **changes: Any) -> Report:
        """Let a process do its part; return its last report.

        Raises:
            HooklineError: When it fails; of the class that it failed with, or a ``CheckpointError`` when it resumed.
        """
        reports = str(self._folder / f"{name}.jsonl")
        order = msgspec.structs.replace(self._base, name=name, reports=reports, **changes)
        with (self._folder / f"{name}.txt").open("wb") as printed:
            command = [sys.executable, "-m", "hookline.cli.proof_child"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT)  # noqa: S603 - fixed words
        try:
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(msgspec.json.encode(order))
            code = self._wait(process, name, order.kill)
        finally:
            # Whatever happens here, no process is left behind.
            process.kill()
            process.wait()
        said = self._reports(name)
        last = said[-1] if said else Report("begun")
        if last.event == "armed":
            assert order.kill is not None, "there is nothing else to arm it"
            what = f"{order.kill.delay_s * 1e3:.0f} ms later by the clock"
            return Report("killed", last.step, what=what)
        if last.event in ("begun", "failed"):
            raise self._failure(order, last, code)
        return last

    def _wait(self, process: subprocess.Popen[bytes], name: str, kill: Kill | None) -> int:
        """Wait for the end of a process; one that is to be killed by the clock is killed."""
        if kill is None or kill.kind != "clock":
            return process.wait()
        while process.poll() is None:
            if any(report.event == "armed" for report in self._reports(name)):
                time.sleep(kill.delay_s)
                process.kill()
            time.sleep(_POLL_S)
        return process.returncode

    def _reports(self, name: str) -> list[Report]:
        """Return what a process has said so far."""
        try:
            lines = (self._folder / f"{name}.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [msgspec.json.decode(line, type=Report) for line in lines[:-1]]

    def _failure(self, order: Order, last: Report, code: int) -> HooklineError:
        what = {"look": "the run cannot be built", "train": "the run fails without interruption"}.get(order.role)
        told = last.what
        if last.event == "begun":
            told = f"its process ended with exit code {code}"
            printed = (self._folder / f"{order.name}.txt").read_text(errors="replace").splitlines()
            told = "\n".join([told, *printed[-_TOLD_LINES:]])
        if what is None:
            return CheckpointError(f"the run cannot be resumed after kill {order.name}: {told}")
        classes = {kind.__name__: kind for kind in HooklineError.__subclasses__()}
        return classes.get(last.kind, TrainingError)(f"{what}: {told}")

    def _tell(self, what: str, how: str) -> None:
        if self._output.json:
            self._output.event("part", what=what, how=how)
        else:
            self._output.prose(f"  {what.ljust(_WIDTH)}  {how}")


def _newest_run(parent: Path) -> Path | None:
    """Return the run of a folder; None if it came to nothing."""
    from hookline.runs.names import run_paths
    from hookline.runs.record import read_record

    for path in reversed(run_paths(parent)):
        with contextlib.suppress(ConfigError):
            read_record(path)
            return path
    return None
