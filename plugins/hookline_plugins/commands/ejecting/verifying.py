"""Run a script in a process of its own, and compare its losses and weights with those of a run, to the last bit."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hookline import ConfigError, Run, TrainingError
from hookline.runs import RunFolder, read_record
from hookline.trained import read_weights
from hookline_plugins.commands.ejecting.parts import parts_of
from hookline_plugins.commands.ejecting.writing import saved_run_config

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "verified script"
_MAX_ERROR_LINES = 15


class Numbers(msgspec.Struct):
    """The losses of a script or a run.

    Attributes:
        steps: The loss of each step; empty for a run, which saves none.
        epochs: The metrics of each epoch, by name.
    """

    steps: list[float | None]
    epochs: list[dict[str, float | None]]


@dataclass(frozen=True)
class Verdict:
    """The comparison of a script with a run.

    Attributes:
        script: Name of the script.
        sha256: Hash of its text.
        epochs: Number of epochs of the run.
        weights: Number of its weight tensors.
        not_measured: Metrics of the run that the script does not measure.
        differences: What differs, in order; empty if the numbers are the same.
    """

    script: str
    sha256: str
    epochs: int
    weights: int
    not_measured: tuple[str, ...]
    differences: tuple[str, ...]

    def row(self) -> dict[str, str | int]:
        """Return it as a row of a table."""
        found = self.differences[0] if self.differences else "same bits"
        counts: dict[str, str | int] = {"epochs": self.epochs, "weights": self.weights}
        return {"script": self.script, "sha256": self.sha256[:12], **counts, "result": found}


def verify(script: Path, path: Path, catalog: Any = None) -> Verdict:
    """Run a script and compare it with a finished run.

    Raises:
        ConfigError: When there is no such script, or the run is not finished.
        TrainingError: When the script fails, or does not save its numbers.
    """
    record = read_record(path)
    if record.model is None:
        raise ConfigError(f"{path.name} has no final weights: it did not finish", hint="hookline resume")
    text = _read(script)
    num_threads = record.identity["machine"]["num_threads"]
    own, weights = _executed(script, num_threads)
    wanted, trained = epochs_of(path / "metrics.jsonl"), read_weights(path).model
    differences = [*epoch_differences(own.epochs, wanted), *weight_differences(weights, trained)]
    if differences:
        differences.insert(0, _first_step(own.steps, path, catalog, num_threads))
    not_measured = [name for name in _missing(own.epochs, wanted) if not name.endswith("loss")]
    digest = hashlib.sha256(text).hexdigest()
    return Verdict(script.name, digest, len(wanted), len(trained), tuple(not_measured), tuple(differences))


def keep(verdict: Verdict, path: Path) -> None:
    """Save a verdict with the run, where ``hookline runs show`` shows it.

    Raises:
        RunBusyError: When another program works in its folder.
    """
    folder = RunFolder.open(path)
    try:
        earlier = [row for row in folder.record.summary.get(TITLE, []) if row.get("script") != verdict.script]
        folder.record.summary[TITLE] = [*earlier, verdict.row()]
        folder.save()
    finally:
        folder.close()


def _read(script: Path) -> bytes:
    try:
        return script.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{script} cannot be read: {error.strerror}", hint="hookline eject writes a script"
        ) from error


def _executed(script: Path, num_threads: int) -> tuple[Numbers, Mapping[str, Tensor]]:
    """Run a script, and return what it saves."""
    with tempfile.TemporaryDirectory(prefix="hookline-verify-") as folder:
        words = [sys.executable, str(script.resolve()), "--save", folder]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
        # The script is the one that the user named.
        done = subprocess.run(  # noqa: S603
            words, env={**os.environ, **threads}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            said = "\n".join(done.stderr.strip().splitlines()[-_MAX_ERROR_LINES:])
            raise TrainingError(f"{script} failed with exit code {done.returncode}\n{said}".rstrip())
        try:
            return saved_in(Path(folder))
        except (OSError, ValueError) as error:
            hint = "with --save FOLDER, it must write losses.json and model.safetensors as `hookline eject` writes them"
            raise TrainingError(f"{script} did not save its numbers: {error}", hint=hint) from error


def saved_in(folder: Path) -> tuple[Numbers, Mapping[str, Tensor]]:
    """Return the numbers and the weights that a script has saved.

    Raises:
        OSError: When there are none.
        ValueError: When they are of another form.
    """
    from safetensors.torch import load_file

    # The module json, unlike JSON, knows NaN.
    numbers = msgspec.convert(json.loads((folder / "losses.json").read_bytes()), Numbers)
    return numbers, load_file(folder / "model.safetensors")


def epochs_of(file: Path) -> list[dict[str, float | None]]:
    """Return the metrics of each epoch of a run."""
    rows = [msgspec.json.decode(line) for line in file.read_bytes().splitlines() if line.strip()]
    ended = {row.pop("epoch"): row for row in rows if "train/running_loss" in row}
    return [{name: value for name, value in row.items() if "/" in name} for row in ended.values()]


def _missing(own: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics of a run that a script does not measure."""
    names = {name for row in wanted for name in row if not name.startswith("logged/")}
    return sorted(names.difference(*own))


def epoch_differences(own: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the differences of the metrics of epochs; the losses of the run must be there."""
    yield from (f"the script does not measure {name}" for name in _missing(own, wanted) if name.endswith("loss"))
    if len(own) != len(wanted):
        yield f"the script has {len(own)} epochs, and the run {len(wanted)}"
    for number, (got, row) in enumerate(zip(own, wanted, strict=False), 1):
        for name in [name for name in row if name in got]:
            if not is_same(got[name], row[name]):
                yield f"epoch {number}: {name} is {got[name]} in the script, and {row[name]} in the run"


def is_same(one: float | None, other: float | None) -> bool:
    """Return whether two numbers are equal; null, as the metrics of a run have it, is NaN."""
    a, b = (math.nan if value is None else value for value in (one, other))
    return a == b or (math.isnan(a) and math.isnan(b))


def weight_differences(own: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the weights whose bits differ."""
    for name in sorted(own.keys() | wanted.keys()):
        if name not in own or name not in wanted:
            # A tensor with two names is saved once.
            shared = name in wanted and any(_same_bits(wanted[name], one) for one in own.values())
            if not shared:
                yield f"weight {name} is only in the {'script' if name in own else 'run'}"
        elif not _same_bits(own[name], wanted[name]):
            yield f"weight {name} differs"


def _same_bits(one: Tensor, other: Tensor) -> bool:
    is_like = one.dtype == other.dtype and one.shape == other.shape
    return is_like and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def _first_step(own: Sequence[float | None], path: Path, catalog: Any, num_threads: int) -> str:
    """Train the run again, without what only watches, and return the first step that differs."""
    config = saved_run_config(path, catalog)
    left_out = parts_of(Run(config)).left_out
    again = saved_run_config(path, catalog, [f"{table}=off" for table in left_out])
    with _threads(num_threads):
        for step in (run := Run(again)).steps():
            if step.step > len(own):
                return f"step {step.step} (epoch {step.epoch}) is missing in the script"
            if not is_same(got := own[step.step - 1], value := step.loss.item()):
                return f"step {step.step} (epoch {step.epoch}): the loss is {got} in the script, and {value} in the run"
    if len(own) > run.step:
        return f"step {run.step + 1} is one more than the run has"
    return "no step differs from a new run on this machine"


@contextmanager
def _threads(number: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
