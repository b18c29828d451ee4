"""The callback notify: commands and webhooks that are really called."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, ConfigError, NonFiniteError, Run, RunResult, hookimpl, load_config, resume
from hookline.trials.switches import trial_values
from hookline_plugins.callback_parts.delivery import deliver, fault_of_url
from support import HANG_S

SAVED: dict[str, Any] = {"callbacks.run-folder": {}, "callbacks.checkpoint": {}}
HANGS = ["sh", "-c", "sleep 300 & echo $! > child; wait"]


class Receiver(ThreadingHTTPServer):
    """A server that answers with the status in the path, and keeps what it gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.is_over = threading.Event()

    def url(self, path: str = "/200") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        assert isinstance(self.server, Receiver)
        self.server.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        if self.path == "/hangs":
            self.server.is_over.wait()
            return
        self.send_response(int(self.path[1:4]))
        self.send_header("Location", self.server.url("/200-elsewhere"))
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.chdir(tmp_path)
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.is_over.set()
        server.shutdown()
        thread.join()


class Events:
    """What a callback sees, for a test to act on."""

    def __init__(self, error: BaseException | None = None, stop: str = "") -> None:
        self.error, self.stop = error, stop

    @hookimpl
    def on_epoch_end(self, run: Any) -> None:
        if self.error:
            raise self.error
        if self.stop:
            run.request_stop(self.stop)


def trained(notify: dict[str, Any], *, events: Events | None = None, **more: Any) -> RunResult:
    notify = {"timeout_s": HANG_S, **notify}
    values: dict[str, Any] = {
        "train.epochs": 1,
        **{f"callbacks.notify.{key}": value for key, value in notify.items()},
        **more,
    }
    return Run(load_config(None, values, plugins={"callbacks.events": events or Events()})).fit()


def test_a_command_and_a_webhook_get_the_facts_of_a_saved_run(receiver: Receiver, tmp_path: Path) -> None:
    words = ["sh", "-c", 'cat > got.json; echo "$0" > words; test -e runs/0001*/model.safetensors']
    words.append("{name}|{step}|{train/loss}|{error}|{no}; $(id)")
    result = trained({"command": words, "url": receiver.url()}, **SAVED)
    assert result.warnings == ()
    facts = json.loads((tmp_path / "got.json").read_text())
    [(path, posted)] = receiver.got
    assert (path, posted) == ("/200", facts)
    name, loss = "0001-synthetic-linear-linear", f"{result.metrics['train/loss']:.6g}"
    expected = {"outcome": "completed", "name": name, "folder": str(tmp_path / "runs" / name), "step": 100, "epoch": 1}
    assert {key: facts[key] for key in expected} == expected
    assert facts["metrics"] == dict(result.metrics)
    assert (facts["error"], facts["reason"]) == (None, None)
    assert facts["text"].startswith(
        f"{name} completed after 100 steps in {facts['duration_s']:.1f} s: train/loss {loss}"
    )
    assert (tmp_path / "words").read_text() == f"{name}|100|{loss}||{{no}}; $(id)\n", "no shell has seen it"


def test_each_outcome_is_told_with_its_reason_and_only_those_that_are_asked_for(receiver: Receiver) -> None:
    trained({"url": receiver.url()}, events=Events(stop="it is enough"))
    with pytest.raises(NonFiniteError):
        trained({"url": receiver.url()}, events=Events(NonFiniteError("the loss is nan, token=canary")))
    trained({"url": receiver.url(), "on": ["failed"]})
    (_, stopped), (_, failed) = receiver.got
    assert (stopped["outcome"], stopped["reason"]) == ("stopped", "it is enough")
    assert failed["outcome"] == "failed"
    assert failed["error"] == "NonFiniteError: the loss is nan, token=<not written>"
    assert failed["error"] in failed["text"]


def test_a_body_takes_the_place_of_the_facts(receiver: Receiver) -> None:
    trained({"url": receiver.url(), "body": {"content": "{outcome}!", "to": [1, "{name}"], "token": "canary"}})
    [(_, posted)] = receiver.got
    assert posted == {"content": "completed!", "to": [1, "a run"], "token": "canary"}


@pytest.mark.parametrize(
    ("command", "path", "warnings"),
    [
        (
            ["sh", "-c", "echo; echo 'no bell' >&2; exit 3"],
            "/404",
            ["exit code 3: no bell", "the answer was 404 Not Found"],
        ),
        (["false"], "/302", ["exit code 1", "the answer was 302 Found"]),
        (HANGS, "/hangs", ["no answer in 0.5 s", "no answer in 0.5 s"]),
    ],
)
def test_a_receiver_that_fails_or_hangs_costs_a_warning(
    receiver: Receiver, tmp_path: Path, command: list[str], path: str, warnings: list[str]
) -> None:
    limits = {"timeout_s": 0.5} if command == HANGS else {}
    result = trained({"command": command, "url": receiver.url(path), **limits})
    assert result.outcome == "completed"
    command_failed, url_failed = warnings
    assert result.warnings == (
        f"the command of notify failed: {command_failed}",
        f"the webhook of notify failed: {url_failed}",
    )
    assert [got for got, _ in receiver.got] in ([path], []), "a redirect is not followed"
    if (tmp_path / "child").exists():  # unless half a second was not enough to begin
        check_ended(int((tmp_path / "child").read_text()))


def check_ended(process: int) -> None:
    """Check that a process ends; one that has ended may wait for its new parent to notice."""
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
    raise AssertionError("it still runs")


def test_a_signal_while_it_is_sent_ends_the_sending_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"train.epochs": 1, "callbacks.notify.command": HANGS, "callbacks.notify.timeout_s": HANG_S}
    run = Run(load_config(None, values))

    def interrupt() -> None:
        while not (tmp_path / "child").exists():
            time.sleep(0.01)
        run.interrupt("SIGINT")

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    result = run.fit()
    thread.join()
    assert (result.outcome, result.warnings) == ("completed", ("the command of notify failed: it was interrupted",))


def test_an_interrupt_from_the_keyboard_ends_the_program_too(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def is_unwanted() -> bool:
        if started.exists() and started.read_text().endswith("\n"):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        deliver(["sh", "-c", f"echo $$ > {started}; sleep 300"], b"", HANG_S, is_unwanted)
    check_ended(int(started.read_text()))


def test_a_program_that_reads_nothing_or_is_not_there_blocks_nothing() -> None:
    assert deliver(["true"], b"x" * 2**20, HANG_S, lambda: False) == ""
    assert "No such file" in deliver(["/no/such/program"], b"", HANG_S, lambda: False)
    assert "null" in deliver(["a\0b"], b"", HANG_S, lambda: False)


@pytest.mark.parametrize("option", ["command", "url", "{}"])
def test_no_file_can_set_a_command_or_an_address(option: str, tmp_path: Path) -> None:
    text = {
        "command": "[callbacks.notify]\ncommand = ['canary']",
        "url": "[callbacks.it]\nuse = 'notify'\nurl = 'https://canary'",
        "{}": "callbacks.notify = {url = 'https://canary'}",
    }[option]
    (tmp_path / "run.toml").write_text(text)
    table = "it" if option == "url" else "notify"
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "run.toml", {f"callbacks.{table}.command": ["true"]})
    name = "command" if option == "command" else "url"
    [fault] = caught.value.faults
    assert fault.message.startswith(f"'callbacks.{table}.{name}' cannot be set in a file")
    assert fault.location is not None
    assert fault.location.line == {"command": 2, "url": 3, "{}": 1}[option]
    assert name == "command" or "canary" not in str(caught.value)
    off = load_config(tmp_path / "run.toml", {f"callbacks.{table}": "off"})
    assert f"callbacks.{table}" not in [choice.table for choice in off.plugins]


def test_no_reference_brings_a_part_of_a_command_from_a_file(tmp_path: Path) -> None:
    overrides = ['callbacks.notify.command=["true", "${loss.use}"]']
    config = load_config(None, overrides)
    assert config.plugins[-1].options["command"] == ("true", "mse")
    (tmp_path / "base.toml").write_text("loss = 'l1'")
    (tmp_path / "run.toml").write_text("extends = 'base.toml'")
    with pytest.raises(ConfigError, match=r"'callbacks\.notify\.command' cannot be set in a file"):
        load_config(tmp_path / "run.toml", overrides)


def test_a_resumed_run_does_what_its_own_start_says_and_is_the_same_run(receiver: Receiver, tmp_path: Path) -> None:
    notify: dict[str, Any] = {
        "callbacks.notify.url": receiver.url("/200-canary"),
        "callbacks.notify.command": ["touch", "canary"],
    }
    notify["callbacks.notify.timeout_s"] = HANG_S
    run = Run(load_config(None, {**SAVED, **notify}))
    for _ in run.steps():
        if run.step == 150:
            run.interrupt("asked")
    assert [(got["outcome"], got["reason"]) for _, got in receiver.got] == [("interrupted", "asked")]
    (tmp_path / "canary").unlink()
    [folder] = (tmp_path / "runs").glob("0001-*")
    written = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".toml", ".json", ".txt"))
    assert "canary" not in written
    assert "# command = <not written>" in written
    [warning] = resume("1").fit().warnings
    assert warning.startswith("nobody is notified of this run")
    assert not (tmp_path / "canary").exists()
    assert len(receiver.got) == 1
    warnings = resume("1", {**notify, "train.epochs": 4}).fit().warnings
    assert warnings[0] == warning, "it was kept"
    [warning] = warnings[1:]
    assert "train.epochs was 3, and is 4" in warning
    assert (tmp_path / "canary").exists()
    assert len(receiver.got) == 2


def test_the_environment_gives_the_address_that_no_option_gives(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKLINE_NOTIFY_URL", receiver.url("/200-environment"))
    assert trained({"body": {"a": "{name}"}}).warnings == ()
    trained({"url": receiver.url()})
    trained({"command": ["true"]})
    assert [path for path, _ in receiver.got] == ["/200-environment", "/200"]
    monkeypatch.setenv("HOOKLINE_NOTIFY_URL", "canary")
    with pytest.raises(ConfigError) as caught:
        trained({"on": ["failed"]})
    assert "'url' is not a valid address" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_trials_tell_nobody() -> None:
    catalog = Catalog.installed()
    config = load_config(None, {"callbacks.notify.command": ["true"]})
    for switches in (
        trial_values(config, catalog, 3, is_fast=False),
        trial_values(config, catalog, None, is_fast=True),
    ):
        [values] = switches.values()
        assert values["callbacks.notify"] == "off"
    assert catalog.default("proof")(config, Path(), 1)["callbacks.notify"] == "off"


@pytest.mark.parametrize(
    ("url", "is_fine"),
    [
        ("https://host/x", True),
        ("http://localhost:8000/x", True),
        ("http://[::1]/x", True),
        ("http://127.1.2.3", True),
        ("http://host/x", False),
        ("http://localhost.example.org/x", False),
        ("ftp://host/x", False),
        ("file:///etc/passwd", False),
        ("https://me:pw@host/x", False),
        ("https://host:port/x", False),
        ("https://host/a b", False),
        ("https://[host/x", False),
        ("host/x", False),
    ],
)
def test_addresses_are_checked_before_the_run_and_not_repeated(url: str, is_fine: bool) -> None:
    fault = fault_of_url(url, allow_http=False)
    assert (not fault) == is_fine
    assert url not in fault
    assert fault_of_url("http://host/x", allow_http=True) == ""
