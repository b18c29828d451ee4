"""The command line as users see it: real processes in empty folders."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

import hookline as door
from support import run

Hookline = Callable[..., subprocess.CompletedProcess[str]]
PROGRAM = str(Path(sys.executable).parent / "hookline")
QUICK = ("train.epochs=1", "data.num_examples=20")


def assert_clean(done: subprocess.CompletedProcess[str], code: int) -> None:
    """Assert one error on standard error, no traceback, and the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


# ---- train ----------------------------------------------------------------------------------------------------------


def test_train_in_an_empty_folder_fits_the_linear_regression(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("train")
    assert (done.returncode, done.stderr) == (0, "")
    kept = "saved in runs/0001-synthetic-linear-linear\n"
    for words in ["synthetic-linear (hookline 0.1.0), default", "learned and true parameters", kept, "try next"]:
        assert words in done.stdout
    rows = re.findall(r"^ +(\d)/3 +([\d.e-]+) +([\d.e-]+) +[\d.]+$", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [float(row[2]) for row in rows][1:] == pytest.approx([1e-4, 1e-4], rel=0.1)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout), "a pipe gets no control characters"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_config_file_and_overrides_make_a_run(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[train]\nepochs = 2\n[optimizer]\nuse = "adam"\nlr = 0.5\n')
    done = hookline("train", "run.toml", "optimizer.lr=0.1", "data.num_examples=20")
    assert done.returncode == 0, done.stderr
    assert "epochs = 2 (run.toml:2)" in done.stdout
    assert "adam (hookline 0.1.0), run.toml:4" in done.stdout
    assert "lr = 0.1 (command line)" in done.stdout


def test_quiet_prints_nothing(hookline: Hookline) -> None:
    done = hookline("train", "--quiet", *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_prints_one_object_for_each_event(hookline: Hookline) -> None:
    done = hookline("train", "--json", "train.epochs=2", "data.num_examples=20")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    epoch = ["epoch_start", "evaluation_end", "epoch_end"]
    assert [event["event"] for event in events] == ["plan", "run_start", *epoch, *epoch, "run_end"]
    assert events[0]["settings"]["train.epochs"] == {
        "key": "train.epochs",
        "value": 2,
        "origin": "command line",
        "overrode": None,
    }
    assert events[-1]["outcome"] == "completed"
    assert {row["parameter"] for row in events[-1]["summary"]["learned and true parameters"]} == {"w1", "w2", "b"}


def test_json_reports_an_error_too_and_has_no_nan(hookline: Hookline) -> None:
    done = hookline("train", "--json", "optimizer.lr=1e6", "train.epochs=2")
    events = [json.loads(line, parse_constant=pytest.fail) for line in done.stdout.splitlines()]
    assert done.returncode == 6
    assert [event["event"] for event in events[-3:]] == ["run_error", "run_end", "error"]
    assert events[-1]["type"] == "NonFiniteError"


def test_a_traceback_is_shown_only_on_request(hookline: Hookline, tmp_path: Path) -> None:
    words = ("train", "optimizer.lr=1e6")
    assert_clean(hookline(*words), 6)
    done = hookline(*words, "--traceback")
    assert done.returncode == 6
    assert "Traceback (most recent call last)" in done.stderr


def test_the_module_is_the_same_program() -> None:
    words = ["version", "--quiet"]
    assert run([sys.executable, "-m", "hookline", *words]).stdout == run([PROGRAM, *words]).stdout != ""


def test_ctrl_c_ends_the_run_with_130_and_closes_it(tmp_path: Path) -> None:
    command = [PROGRAM, "train", "--json", "train.epochs=1000000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if json.loads(line)["event"] == "epoch_end":
                break
        process.send_signal(signal.SIGINT)
        # communicate() would lose the lines that the iteration has read ahead.
        out, err = process.stdout.read(), process.stderr.read() if process.stderr else ""
    events = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130
    assert (events[-1]["event"], events[-1]["outcome"]) == ("run_end", "interrupted")
    folder = "runs/0001-synthetic-linear-linear"
    assert err.splitlines() == [
        "SIGINT: ending the run after this step and saving its state; a second signal ends it at once",
        f"resume with: hookline resume {folder}",
    ]
    record = json.loads((tmp_path / folder / "run.json").read_text())
    assert (record["status"], record["step"]) == ("interrupted", events[-1]["steps"])
    assert len(list((tmp_path / folder / "checkpoints").iterdir())) == 1


def read_terminal(command: list[str], cwd: Path, **environment: str) -> tuple[str, float]:
    """Run a program in a terminal; return its output, and the seconds between its first and last write."""
    main, side = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    env.pop("CI", None) if "CI" not in environment else None
    times: list[float] = []
    text = b""
    with subprocess.Popen(command, stdout=side, stderr=side, stdin=side, env=env, cwd=cwd) as process:
        os.close(side)
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017 - Linux reports a closed terminal this way
                break
            times.append(time.perf_counter())
            text += piece
    os.close(main)
    assert process.returncode == 0, text
    return text.decode(), times[-1] - times[0]


def test_a_terminal_has_a_live_line_redrawn_at_most_ten_times_a_second(tmp_path: Path) -> None:
    text, _ = read_terminal([PROGRAM, "train", "train.epochs=40"], tmp_path)
    drawn = re.findall(r"step (\d+)/4000", text)
    seconds = float(re.findall(r"completed after 4000 steps in ([\d.]+) s", text)[0])
    assert "steps/s" in text
    # One more each at the start, at the first step, and at the end.
    assert 2 <= len(drawn) <= 10 * seconds + 3
    assert [int(row) for row in re.findall(r"(\d+)/40 +\d", text)] == list(range(1, 41))


def test_a_terminal_of_a_ci_machine_gets_plain_lines(tmp_path: Path) -> None:
    text, _ = read_terminal([PROGRAM, "train", *QUICK], tmp_path, CI="true")
    assert "\x1b" not in text


# ---- faults of the arguments and of the config ----------------------------------------------------------------------


def test_all_faults_of_a_config_are_reported_at_once_with_their_places(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[train]\nepoch = 3\nbatch_size = "10"\n\n[optimizer]\nuse = "sgd"\nlr = -1\n\n'
        '[model]\nuse = "linaer"\n\n[lost]\na = 1\n'
    )
    done = hookline("train", "run.toml", "train.seed=x", "data.noise=1")
    assert_clean(done, 2)
    for words in [
        "run.toml:2:1",
        "2 | epoch = 3",
        "did you mean 'epochs'?",
        "run.toml:3:14",
        "expected an integer >= 1 or 'all', got '10'",
        "run.toml:7:6",
        "expected a number >= 0, got -1",
        "run.toml:10:7",
        "did you mean 'linear'?",
        "run.toml:12:2",
        "did you mean 'loss'?",
        "train.seed=x",
        "unknown key 'data.noise'",
        "did you mean 'noise_std'?",
    ]:
        assert words in done.stderr, words
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("missing.toml",), ["missing.toml"]),
        (("train.epochs",), ["train.epochs"]),
        (("=3",), ["'=3' is not an override", "KEY=VALUE"]),
        (("train.epochs=[1",), ["train.epochs=[1"]),
        (("train.epochs=1e400",), ["train.epochs=1e400"]),
        (("train.epochs=9" + "9" * 5000,), ["train.epochs"]),
        (("model=os.system",), ["no model plugin named 'os.system'"]),
        (("model=../x",), ["no model plugin named '../x'"]),
        (("model=a:b",), ["no model plugin named 'a:b'"]),
        (("model=\x1b[31m",), ["model="]),
        (("run.toml", "other.toml"), ["run.toml"]),
        (("optimizer.nesterov=true",), ["nesterov = true needs momentum > 0"]),
        (("epochs=5",), ["did you mean 'train.epochs'?"]),
        (("callbacks.x=off", "callbacks.y.monitor=1"), ["no callback plugin named 'y'"]),
    ],
    ids=lambda value: value[0][:30] if isinstance(value, tuple) else "",
)
def test_a_fault_of_the_arguments_is_reported_cleanly(
    hookline: Hookline, words: tuple[str, ...], expected: list[str]
) -> None:
    done = hookline("check", *words)
    assert_clean(done, 2)
    for text in expected:
        assert text in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("trian",),
        ("train", "--nope"),
        ("train", "--nproc", "0"),
        ("resume", "1", "--nproc", "many"),
        ("show", "model"),
        ("new", "modle", "x"),
    ],
)
def test_a_wrong_command_or_option_is_a_usage_error(hookline: Hookline, words: tuple[str, ...]) -> None:
    done = hookline(*words)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_options_that_exclude_each_other_are_reported_at_their_place(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[optimizer]\nuse = "sgd"\nnesterov = true\n')
    done = hookline("check", "run.toml")
    assert_clean(done, 2)
    assert "run.toml:2:7" in done.stderr


# ---- the other commands ---------------------------------------------------------------------------------------------


def test_check_prints_sizes_and_writes_nothing(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 parameters, 100 steps per epoch, first loss " in done.stdout
    assert list(tmp_path.iterdir()) == []


_STREAM = """
import hookline, torch
from torch.utils.data import IterableDataset

class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), torch.zeros(1))] * 5)

@hookline.plugin("data", "stream")
def stream():
    return hookline.DataSource(Stream(), in_features=2, out_features=1)
"""


def test_check_says_that_the_length_of_a_stream_is_unknown(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "streams.py").write_text(_STREAM)
    done = hookline("check", "--plugin", "streams.py", "data=stream")
    assert "\n3 parameters, an unknown number of steps per epoch, first loss " in done.stdout


def test_check_as_json_is_one_document(hookline: Hookline) -> None:
    answer = json.loads(hookline("check", "--json").stdout)
    assert (answer["ok"], answer["num_parameters"], answer["steps_per_epoch"]) == (True, 3, 100)
    assert answer["plan"]["plugins"]["model"]["name"] == "linear"


def test_plugins_lists_every_installed_plugin(hookline: Hookline) -> None:
    listed = json.loads(hookline("plugins", "--json").stdout)
    catalog = door.Catalog.installed()
    assert [(e["kind"], e["origin"]) for e in listed] == [(e.kind, e.value) for e in catalog.entries]
    lines = hookline("plugins", "loss", "--quiet").stdout.splitlines()
    assert [line.split()[1] for line in lines] == [e.name for e in catalog.entries if e.kind == "loss"]
    assert {"bce-with-logits", "cross-entropy", "huber", "l1", "mse"} <= {line.split()[1] for line in lines}


def test_show_prints_options_and_the_lines_to_paste(hookline: Hookline, tmp_path: Path) -> None:
    done = hookline("show", "callback", "early-stopping")
    for words in ["early-stopping' (hookline 0.1.0)", "patience", "an integer >= 1", "[callbacks.early-stopping]"]:
        assert words in done.stdout
    pasted = hookline("show", "callback", "early-stopping", "--quiet").stdout
    (tmp_path / "run.toml").write_text(pasted)
    assert hookline("explain", "callbacks.early-stopping", "run.toml").returncode == 0


def test_show_as_json_has_a_schema_of_each_option(hookline: Hookline) -> None:
    answer = json.loads(hookline("show", "model", "mlp", "--json").stdout)
    assert {option["name"]: option["schema"]["default"] for option in answer["options"]} == {
        "hidden": [64, 64],
        "activation": "relu",
        "dropout": 0.0,
    }


def test_show_of_an_unknown_name_offers_the_nearest(hookline: Hookline) -> None:
    done = hookline("show", "model", "mlb")
    assert_clean(done, 2)
    assert "did you mean 'mlp'?" in done.stderr


def test_explain_prints_the_value_its_origin_and_the_value_that_it_overrode(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[optimizer]\nlr = 0.5\n")
    done = hookline("explain", "optimizer.lr", "run.toml", "optimizer.lr=0.25")
    assert done.stdout.splitlines()[:4] == [
        "optimizer.lr = 0.25",
        "  from command line",
        "  overrode 0.5 from run.toml:2",
        "  the default of optimizer 'sgd' (hookline 0.1.0) is 0.03",
    ]
    assert hookline("explain", "optimizer.lr", "run.toml", "--quiet").stdout == "0.5\n"
    story = json.loads(hookline("explain", "optimizer.lr", "run.toml", "optimizer.lr=0.25", "--json").stdout)
    assert story[0]["overrode"] == {"key": "optimizer.lr", "value": 0.5, "origin": "run.toml:2", "overrode": None}


def test_explain_of_an_unknown_key_offers_the_nearest(hookline: Hookline) -> None:
    done = hookline("explain", "optimizer.rate")
    assert_clean(done, 2)
    assert "optimizer." in done.stderr


def test_init_writes_a_config_that_is_the_default_run(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("init").returncode == 0
    text = (tmp_path / "run.toml").read_text()
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "full.toml").write_text(uncommented)
    plain = door.load_config()
    for name in ("run.toml", "full.toml"):
        config = door.load_config(tmp_path / name)
        assert config.train == plain.train
        assert [choice.options for choice in config.plugins] == [choice.options for choice in plain.plugins]


def test_init_overwrites_nothing_unless_forced(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("mine")
    assert_clean(hookline("init"), 2)
    assert (tmp_path / "run.toml").read_text() == "mine"
    assert hookline("init", "--force").returncode == 0
    assert (tmp_path / "run.toml").read_text() != "mine"


def test_a_config_that_init_cannot_write_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("mine")
    # No file may become larger than 1024 bytes, and the config is.
    done = run(["bash", "-c", 'ulimit -f 1 && exec "$@"', "bash", PROGRAM, "init", "--force"], cwd=tmp_path)
    assert_clean(done, 2)
    assert "run.toml cannot be written: File too large (EFBIG)" in done.stderr
    assert (tmp_path / "run.toml").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_schema_is_draft_7_and_distinguishes_valid_from_invalid_configs(hookline: Hookline) -> None:
    schema = json.loads(hookline("schema").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    right = [
        {},
        {"optimizer": "adam"},
        {"optimizer": {"lr": 0.1}},
        {"optimizer": {"use": "adam", "betas": [0.9, 0.99]}},
        {"callbacks": {"early-stopping": {"patience": 2}, "second": {"use": "early-stopping"}, "progress": "off"}},
        {"train": {"batch_size": "all", "epochs": 0}},
    ]
    wrong = [
        {"optimiser": {}},
        {"optimizer": "adan"},
        {"optimizer": {"betas": [0.9, 0.99]}},
        {"optimizer": {"use": "adam", "momentum": 0.1}},
        {"optimizer": {"lr": -1}},
        {"callbacks": {"second": {"patience": 2}}},
        {"train": {"batch_size": "most"}},
    ]
    assert [document for document in right if not validator.is_valid(document)] == []
    assert [document for document in wrong if validator.is_valid(document)] == []


def test_version_prints_the_versions_of_the_dependencies(hookline: Hookline) -> None:
    assert re.fullmatch(r"hookline \S+ hooks \S+ torch \S+ pluggy \S+ python \S+\n", hookline("version").stdout)
    assert set(json.loads(hookline("version", "--json").stdout)) == {"hookline", "hooks", "torch", "pluggy", "python"}
    assert hookline("--version").stdout == f"hookline {hookline('version', '--quiet').stdout}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(hookline: Hookline, shell: str) -> None:
    assert "_HOOKLINE_COMPLETE" in hookline("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hookline tr", "train"),
        ("hookline train optim", "optimizer.lr="),
        ("hookline train optimizer=ada", "optimizer=adamw"),
        ("hookline train optimizer=adam optimizer.", "optimizer.betas="),
        ("hookline show model m", "mlp"),
        ("hookline plugins l", "loss"),
        ("hookline lr", "lr-find"),
        ("hookline lr-find optim", "optimizer.lr="),
        ("hookline lr-find optimizer=ada", "optimizer=adamw"),
        ("hookline profile model=mlp model.", "model.hidden="),
        ("hookline train --over", "--overfit"),
        ("hookline export last --to saf", "safetensors"),
    ],
)
def test_tab_offers_keys_and_names(hookline: Hookline, words: str, offered: str) -> None:
    number = str(len(words.split()) - 1)
    done = hookline(_HOOKLINE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=number)
    assert f"plain,{offered}" in done.stdout.splitlines()


# ---- odd surroundings -----------------------------------------------------------------------------------------------


def test_a_closed_standard_output_causes_no_traceback() -> None:
    done = run(["sh", "-c", f"{PROGRAM} train {' '.join(QUICK)} >&-; echo $? >&2"])
    assert done.stderr.strip() == "0"
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_causes_no_traceback() -> None:
    done = run(["sh", "-c", f"{PROGRAM} plugins | head -1"])
    assert done.stdout.startswith("kind")
    assert "Traceback" not in done.stderr


def test_an_ascii_locale_causes_no_traceback(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[model]\nuse = "größe"\n')
    done = hookline("check", "run.toml", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert_clean(done, 2)
    assert "Unicode" not in done.stderr


@pytest.mark.parametrize("name", ["torch.py", "pluggy.py", "click.py", "hookline_plugins.py"])
def test_a_file_in_the_folder_shadows_nothing(hookline: Hookline, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise RuntimeError('shadowed')\n")
    assert hookline("explain", "model").returncode == 0


@pytest.mark.parametrize("flags", [("-O",), ("-I",), ("-X", "dev", "-W", "error")], ids="".join)
def test_python_in_another_mode_gives_the_same_answers(flags: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, *flags, "-m", "hookline", "explain", "optimizer.lr"]
    done = run(command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("optimizer.lr = 0.03")


def test_a_full_device_causes_no_traceback() -> None:
    done = run(["sh", "-c", f"{PROGRAM} plugins --json > /dev/full"])
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_that_click_would_interpret_is_reported_like_any_other(tmp_path: Path) -> None:
    program = (
        "import sys, hookline_plugins.models.linear as m\n"
        "m.Linear.__init__ = lambda self, **options: (_ for _ in ()).throw(EOFError('truncated file'))\n"
        "sys.argv = ['hookline', 'check']\n"
        "from hookline.cli import main; main()"
    )
    done = run([sys.executable, "-c", program], cwd=tmp_path)
    assert_clean(done, 3)
    assert "truncated file" in done.stderr


def test_check_finds_faults_that_only_a_built_run_shows(hookline: Hookline) -> None:
    done = hookline("check", "callbacks.early-stopping.patience=3")
    assert_clean(done, 2)
    assert "early-stopping monitors 'validation/loss', which this run does not measure" in done.stderr


def test_explain_knows_the_callbacks_that_train_adds_and_those_that_are_off(hookline: Hookline) -> None:
    assert "from default of this command" in hookline("explain", "callbacks.progress").stdout
    done = hookline("explain", "callbacks.progress", "callbacks.progress=off")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('callbacks.progress.use = "off"\n  from command line\n')


def test_an_override_may_contain_a_path_and_a_path_an_equals_sign(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "a=b.toml").write_text("[train]\nepochs = 7\n")
    assert hookline("explain", "train.epochs", "a=b.toml", "--quiet").stdout == "7\n"
    done = hookline("explain", "data.path", "data.path=x.toml", "data=csv", "data.target=y", "--quiet")
    assert done.stdout == '"x.toml"\n', done.stderr


def test_control_characters_in_keys_never_reach_the_terminal(hookline: Hookline) -> None:
    done = hookline("explain", "callbacks.a\x9b31m", "callbacks.a\x9b31m.use=early-stopping")
    assert done.returncode == 2
    assert "\x9b" not in done.stdout + done.stderr


def test_init_into_a_missing_folder_is_reported_cleanly(hookline: Hookline) -> None:
    assert_clean(hookline("init", "-o", "nowhere/run.toml"), 2)


def test_bash_completes_the_word_after_the_equals_sign(hookline: Hookline, tmp_path: Path) -> None:
    script = hookline("completion", "bash").stdout
    program = f"""
PATH={Path(PROGRAM).parent}:$PATH
{script}
COMP_WORDS=(hookline train model = ml); COMP_CWORD=4
_hookline_completion hookline; echo "${{COMPREPLY[@]}}"
COMPREPLY=(); COMP_WORDS=(hookline train model =); COMP_CWORD=3
_hookline_completion hookline; echo "${{COMPREPLY[@]}}"
COMPREPLY=(); COMP_WORDS=(hookline train model = mlp model.h); COMP_CWORD=5
_hookline_completion hookline; echo "${{COMPREPLY[@]}}"
"""
    done = run(["bash", "-c", program], cwd=tmp_path)
    assert done.stdout.splitlines() == ["mlp", "bag-of-tokens cnn gpt linear mlp tabular transformers", "model.hidden="]
