"""`hookline dashboard` over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hookline.runs import BestValue, RunFolder
from support import HANG_S, run

Hookline = Callable[..., subprocess.CompletedProcess[str]]

PROGRAM = str(Path(sys.executable).parent / "hookline")
MARKUP = "<img src=x onerror=document.title='hacked'>"
HOSTILE = f"0003-{MARKUP.replace('/', '')}"
DATA = ("curves", "details", "checkpoints", "log")


def fill(parent: Path) -> None:
    """Write runs: a good one, a damaged one, one whose names are markup, and one whose files are links."""
    for number, label in enumerate(("good", "damaged", "hostile", "links"), 1):
        folder = RunFolder.claim(parent, label)
        record = folder.record
        record.status, record.epochs, record.num_epochs, record.step = "completed", 2, 2, 20
        record.metrics, record.best = {"loss": 0.5 / number}, BestValue("loss", "min", 0.5 / number, 2, 20)
        record.identity = {"settings": {"optimizer.lr": 0.1 * number, "train.seed": 2**70}, "data": {"train": {}}}
        folder.save()
        folder.close()
        (folder.path / "metrics.jsonl").write_text(
            '{"epoch":1,"step":10,"loss":1.0}\n{"epoch":2,"step":20,"loss":0.5}\n'
        )
        (folder.path / "log.txt").write_text("first line\nlast line é\n")
    (parent / "0002-damaged" / "run.json").write_text('{"run":')
    (parent / "0002-damaged" / "metrics.jsonl").write_bytes(b"\xff\x00[" * 1000)
    (parent / "0003-hostile").rename(parent / HOSTILE)
    (parent / HOSTILE / "metrics.jsonl").write_text(json.dumps({"step": 1, MARKUP: 1, "a\nb": None}) + "\n")
    (parent / HOSTILE / "log.txt").write_text(f"{MARKUP}\x1b[31m\n")
    links, outside = parent / "0004-links", parent.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text('{"step": 1, "secret": 1}\n')
    (outside / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    for name in ("metrics.jsonl", "log.txt", "config.toml"):
        (links / name).unlink(missing_ok=True)
        (links / name).symlink_to(outside / "secret")
    for name in ("checkpoints", "artifacts"):
        (links / name).symlink_to(outside)
    (parent / "0005-outside").symlink_to(outside)
    (parent / os.fsdecode(b"0006-\xff")).mkdir()
    (parent / "0007-empty").mkdir()


def start(parent: Path, *words: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
    """Start the dashboard on a free port, and return it with the port once it answers."""
    process = subprocess.Popen(
        [PROGRAM, "dashboard", str(parent), "--port", "0", "--json", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, int(json.loads(line)["address"].rpartition(":")[2].strip("/"))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    parent = tmp_path_factory.mktemp("dashboard") / "runs"
    fill(parent)
    process, port = start(parent)
    yield port
    process.terminate()
    _, errors = process.communicate(timeout=HANG_S)
    assert errors == "", "nothing that was asked is an error of the server"


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


def answer(port: int, path: str) -> Any:
    status, headers, body = ask(port, path)
    assert status == 200, body
    assert headers["content-type"] == "application/json"
    return json.loads(body)


def of(name: str, part: str = "") -> str:
    return f"/api/runs/{urllib.parse.quote(name, safe='')}{part}"


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_the_list_has_every_run_damaged_ones_too(port: int) -> None:
    rows = {row["name"]: row for row in answer(port, "/api/runs")["changes"]["rows"]}
    assert list(rows) == ["0001-good", "0002-damaged", HOSTILE, "0004-links", "0006-\\udcff", "0007-empty"]
    assert (rows["0001-good"]["status"], rows["0001-good"]["best"], rows["0001-good"]["epochs"]) == (
        "completed",
        0.5,
        2,
    )
    assert rows["0002-damaged"]["status"] == "unreadable"
    assert "run.json cannot be read" in rows["0002-damaged"]["problem"]
    assert "not a run folder: run.json: No such file" in rows["0007-empty"]["problem"]
    assert answer(port, of("0006-\\udcff"))["status"] == "unreadable"
    assert answer(port, "/api/runs?column=optimizer.lr&column=train.seed")["changes"]["rows"][0]["cells"] == [
        0.1,
        str(2**70),
    ]
    assert [one["name"] for one in answer(port, "/api/columns")["settings"] if one["varies"]] == ["optimizer.lr"]


def test_a_run_has_curves_details_checkpoints_and_a_log(port: int) -> None:
    (curves,) = answer(port, of("0001-good", "/curves"))["sections"]
    assert (curves["kind"], curves["series"][0]["steps"], curves["series"][0]["values"]) == (
        "curves",
        [10, 20],
        [1, 0.5],
    )
    version = answer(port, of("0001-good", "/curves"))["version"]
    assert "sections" not in answer(port, of("0001-good", f"/curves?since={version}"))
    titles = [section["title"] for section in answer(port, of("0001-good", "/details"))["sections"]]
    assert {"Result", "Config"} <= set(titles)
    (checkpoints,) = answer(port, of("0001-good", "/checkpoints"))["sections"]
    assert checkpoints["rows"] == []
    log = answer(port, of("0001-good", "/log"))
    assert (log["text"], log["offset"]) == ("first line\nlast line é\n", 24)
    assert answer(port, of("0001-good", "/log?offset=11"))["text"] == "last line é\n"
    assert answer(port, of("0001-good", "/log?offset=24"))["text"] == ""


def test_runs_are_compared(port: int) -> None:
    query = urllib.parse.urlencode([("run", "0001-good"), ("run", HOSTILE)])
    sections = {section["title"]: section for section in answer(port, f"/api/compare?{query}")["sections"]}
    assert sections["Differences"]["columns"] == ["part", "key", "0001-good", HOSTILE]
    assert sections["Differences"]["rows"] == [["settings", "optimizer.lr", 0.1, pytest.approx(0.3)]]
    assert sections["Settings and results"]["kind"] == "parallel"
    curves = answer(port, f"/api/compare/curves?{query}")["sections"]
    assert [one["name"] for section in curves for one in section["series"]] == [
        "0001-good: loss",
        f"{HOSTILE}: {MARKUP}",
    ]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0001-good", "0002-damaged", HOSTILE, "0004-links", "0006-\\udcff", "0007-empty"])
@pytest.mark.parametrize("part", ["", *(f"/{part}" for part in DATA)])
def test_no_run_breaks_the_server(port: int, name: str, part: str) -> None:
    status, headers, body = ask(port, of(name, part))
    assert status in (200, 503)
    assert headers["content-type"] == "application/json"
    assert status == 200 or json.loads(body)["error"]
    assert b"secret" not in body, "links lead out of the folder"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", ""]
)
def test_another_host_is_refused(port: int, host: str) -> None:
    for path in ("/", "/api/runs", "/static/app.js", "/none"):
        status, _, body = ask(port, path, Host=host)
        assert (status, b"good" in body) == (421, False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:{port}", "[::1]:{port}"])
def test_this_machine_is_answered(port: int, host: str) -> None:
    assert ask(port, "/api/runs", Host=host.format(port=port))[0] == 200


def test_a_request_with_two_hosts_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:
        connection.sendall(
            b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        status = connection.makefile("rb").readline()
    assert status.split()[1] in (b"400", b"421")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MADE-UP"])
def test_every_method_but_reading_is_refused(port: int, method: str) -> None:
    for path in ("/", "/api/runs", of("0001-good")):
        status, headers, _ = ask(port, path, method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert ask(port, "/", "HEAD")[::2] == (200, b"")


TRAVERSALS = [
    "..",
    "%2e%2e",
    "..%2f..%2foutside",
    "%2e%2e%2foutside",
    "0001-good%2f..%2f..%2foutside",
    "0005-outside",
    "%00",
    "last",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_nothing_outside_of_the_folder_is_read(port: int, name: str) -> None:
    for part in ("", *(f"/{part}" for part in DATA)):
        status, _, body = ask(port, f"/api/runs/{name}{part}")
        assert (status, b"secret" in body) == (404, False)
    for path in (f"/static/{name}/pages.py", f"/api/compare?run={name}", f"/{name}"):
        assert ask(port, path)[0] == 404


def test_odd_queries_are_answered(port: int) -> None:
    for query in ("since=x", "since=-1", f"since={'9' * 5000}", "since=%00", "column=%ff", "&&&", "since=1&since=2"):
        assert ask(port, f"/api/runs?{query}")[0] == 200
    for query in ("offset=x", "offset=-5", f"offset={10**17}", "offset=%D9%A3"):
        assert ask(port, of("0001-good", f"/log?{query}"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/static/draw.js", "/api/runs", "/none", "/api/runs/none"])
def test_every_answer_has_the_headers_that_confine_the_page(port: int, path: str) -> None:
    for method, host in (("GET", "localhost"), ("POST", "localhost"), ("GET", "evil.example")):
        _, headers, _ = ask(port, path, method, Host=host)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["access-control-allow-origin"] is None


def test_the_page_has_no_script_and_no_style_of_its_own(port: int) -> None:
    page = ask(port, "/")[2].decode()
    assert "<script>" not in page
    assert "style=" not in page
    assert " on" not in page.replace(" only", "")
    assert "http" not in page.replace("http-equiv", "")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_though_a_browser_is_connected(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    process, port = start(tmp_path)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    connection.request("GET", "/")  # and it is kept open
    connection.getresponse().read()
    if Path(f"/proc/{process.pid}/maps").exists():
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert errors.strip() == ("interrupted" if number == signal.SIGINT else "")
    connection.close()


def test_a_busy_port_and_a_foreign_address_are_errors(hookline: Hookline, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = hookline("dashboard", str(tmp_path), "--port", str(port))
    assert done.returncode == 2
    assert f"cannot serve at 127.0.0.1, port {port}: Address already in use" in done.stderr
    assert "--port 0" in done.stderr
    done = hookline("dashboard", str(tmp_path), "--host", "192.0.2.1")
    assert done.returncode == 2
    assert "cannot serve at 192.0.2.1" in done.stderr


def test_a_folder_that_holds_no_runs_is_an_error(hookline: Hookline, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    (tmp_path / "file").touch()
    (tmp_path / "run.json").touch()
    expected = {"none": "does not exist", "file": "is not a folder", ".": "is the folder of a single run"}
    for name, text in expected.items():
        done = hookline("dashboard", str(tmp_path / name), "--open")
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr


def test_other_machines_are_let_in_only_with_a_warning_and_by_known_names(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    process, port = start(tmp_path, "--host", "0.0.0.0", "--name", "lab.example")
    hosts = {"lab.example": 200, "192.0.2.7": 200, "localhost": 200, "evil.example": 421, "7.evil.example": 421}
    assert {host: ask(port, "/", Host=host)[0] for host in hosts} == hosts
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert "warning: everyone who can reach http://" in errors


def test_a_missing_package_is_named_with_the_extra_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['hookline', 'dashboard', '.']\n"
        "from hookline.cli import main; main()"
    )
    done = run([sys.executable, "-c", program])
    assert done.returncode == 3
    assert "the dashboard needs starlette" in done.stderr
    assert "pip install 'hookline[dashboard]'" in done.stderr
