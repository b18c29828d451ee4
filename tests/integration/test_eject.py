"""The commands ``hookline eject`` and ``hookline verify``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Hookline = Callable[..., subprocess.CompletedProcess[str]]


# The page hand-over-a-run.md verifies a script that was not changed.
def test_a_changed_script_is_caught_at_its_first_step_and_the_verdict_is_kept(
    hookline: Hookline, tmp_path: Path
) -> None:
    assert hookline("train", "--quiet", "data.num_examples=100").returncode == 0
    made = hookline("eject", "1", "-o", "plain.py")
    left_out = "callbacks.try-first-batch, callbacks.run-folder, callbacks.checkpoint"
    assert made.stdout.splitlines()[1:3] == [
        "wrote plain.safetensors: 2 arrays",
        f"left out, because they change no number: {left_out}",
    ]
    again = hookline("eject", "1", "-o", "plain.py")
    assert (again.returncode, again.stderr.splitlines()[0]) == (
        2,
        "error: plain.safetensors and plain.py already exist",
    )

    script = tmp_path / "plain.py"
    loop = "    for epoch in range(1, EPOCHS + 1):\n"
    slower = f'{loop}        optimizer.param_groups[0]["lr"] = 0.03 if epoch < 2 else 0.02\n'
    script.write_text(script.read_text().replace(loop, slower))
    found = json.loads(hookline("verify", "plain.py", "1", "--json").stdout.partition('\n{"event"')[0])
    # An epoch has 10 steps; the loss of step 11 is computed before the first slower update.
    assert found["differences"][0].startswith("step 12 (epoch 2): the loss is ")
    assert found["differences"][1].startswith("epoch 2: train/running_loss is ")
    assert "weight weight differs" in found["differences"]

    shown = json.loads(hookline("runs", "show", "1", "--json").stdout)
    [row] = shown["summary"]["verified script"]
    assert (row["script"], row["result"]) == ("plain.py", found["differences"][0])


def test_a_run_that_cannot_be_a_script_is_refused_with_every_reason(hookline: Hookline, tmp_path: Path) -> None:
    words = ("model=mlp", "train.epochs=1", "optimizer=lbfgs", "train.batch_size=all", "train.evaluate_every_steps=5")
    assert hookline("train", "--quiet", *words).returncode == 0
    refused = hookline("eject", "1")
    assert refused.returncode == 2
    assert "the run 0001-synthetic-linear-mlp cannot be written as a script" in refused.stderr
    assert "train.evaluate_every_steps" in refused.stderr
    assert "optimizer: optimizer 'lbfgs' (hookline 0.1.0): it has no script" in refused.stderr
    assert list(tmp_path.glob("*.py")) == []


def test_a_script_that_fails_is_an_error_with_its_last_words(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("train", "--quiet", "train.epochs=1").returncode == 0
    (tmp_path / "broken.py").write_text("raise SystemExit('no')\n")
    failed = hookline("verify", "broken.py", "1")
    assert (failed.returncode, failed.stderr) == (1, "error: broken.py failed with exit code 1\nno\n")
    (tmp_path / "idle.py").write_text("")
    assert "idle.py did not save its numbers" in hookline("verify", "idle.py", "1").stderr
    assert "missing.py cannot be read: No such file or directory" in hookline("verify", "missing.py", "1").stderr
