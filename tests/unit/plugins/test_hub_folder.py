"""Folders for the Hugging Face Hub: the card, its snippet, and the upload by the Hub's own client to a stand-in."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hookline
from hookline import ConfigError, PluginError
from hookline.runs import read_record
from hookline.trained import export_model, load_format, load_trained
from support import compared, run

HAS_HUB = importlib.util.find_spec("huggingface_hub") is not None
COLUMN = "<img src=x onerror=alert(1)> | `y` [z](http://w) ---"
TITLE = 'Houses: "cheap" # *now*\n---\nlicense: other'
TAGS = ["a: b", "x\n- evil", "'\"\\", "ö"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table with a column whose name is markup."""
    folder = tmp_path_factory.mktemp("houses")
    rows = [f"{n % 7},{['no', 'yes'][n % 2]}" for n in range(40)]
    (folder / "houses.csv").write_text("\n".join([f'"{COLUMN}",sold', *rows]) + "\n")
    data = {"use": "csv", "path": str(folder / "houses.csv"), "target": "sold", "task": "classification"}
    callbacks = {"run-folder": {"parent": str(folder / "runs")}, "clip-gradients": {"max_norm": 2.5}, "telemetry": {}}
    tables = {"data": data, "loss": "cross-entropy", "callbacks": callbacks}
    hookline.train({**tables, "train": {"epochs": 1, "seed": 7}})
    return folder / "runs" / "0001-csv-linear"


@pytest.fixture(scope="module")
def made(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "houses"
    form = load_format("hub-folder", {"export.title": TITLE, "export.tags": TAGS, "export.license": "apache-2.0"})
    assert compared(export_model(load_trained(saved), form, path)).largest_difference == 0
    return path


def header(card: str) -> dict[str, Any]:
    """Return the header of a card, whose values are also JSON."""
    lines = card.removeprefix("---\n").partition("\n---\n")[0].splitlines()
    return {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines}


def test_the_header_says_what_the_record_says_and_no_text_of_a_user_is_markup(made: Path, saved: Path) -> None:
    card = (made / "README.md").read_text()
    found = header(card)
    assert [*found] == ["library_name", "license", "pipeline_tag", "tags", "model-index"]
    assert (found["license"], found["pipeline_tag"]) == ("apache-2.0", "tabular-classification")
    assert found["tags"] == ["hookline", "a: b", "x\\n- evil", "'\"\\", "ö"]
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"type": "csv", "name": "houses.csv"}
    accuracy = {one["name"]: one["value"] for one in result["metrics"]}["train/accuracy"]
    assert accuracy == read_record(saved).metrics["train/accuracy"]
    body = card.partition("\n---\n")[2]
    assert '\n# Houses: "cheap" \\# \\*now\\*\\\\n---\\\\nlicense: other\n' in body
    assert r"&#60;img src=x onerror=alert\(1\)&#62; &#124; \`y\` \[z\]\(http://w\) ---" in body
    assert re.findall(r"<[^>]*>", body) == ["<details>", "<summary>", "</summary>", "</details>"]
    for line in (r"| callbacks.clip-gradients.max\_norm | 2.5 |", "| seed | 7 |", "| classes | 2: no, yes |"):
        assert line in body
    assert "telemetry" not in body
    for digest in (split["content"] for split in read_record(saved).identity["data"].values()):
        assert digest in body


def test_the_snippet_of_the_card_runs_and_gives_the_predictions_of_the_run(made: Path, saved: Path) -> None:
    table = saved.parents[1] / "houses.csv"
    (made / "new.csv").write_bytes(table.read_bytes())
    (snippet,) = re.findall(r"```python\n(.*?)```", (made / "README.md").read_text(), re.DOTALL)
    done = run([sys.executable, "-c", snippet], cwd=made)
    (made / "new.csv").unlink()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{columns}\n" for columns in load_trained(saved).predictions(table))


def test_the_folder_has_weights_config_and_record_and_is_a_run_folder_to_readers(made: Path, saved: Path) -> None:
    names = {path.name for path in made.iterdir()}
    assert names == {"README.md", "config.toml", "data.json", "model.safetensors", "run.json"}
    weights, there = load_file(made / "model.safetensors"), load_file(saved / "model.safetensors")
    assert weights.keys() == there.keys()
    assert all(torch.equal(weights[name], there[name]) for name in there)
    assert not any(str(saved.parent).encode() in path.read_bytes() for path in made.iterdir())


def test_the_card_of_a_run_without_a_reader_of_inputs_shows_how_to_pass_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hookline.train({"train": {"epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path / "runs")}}})
    export_model(load_trained("last", parent=tmp_path / "runs"), "hub-folder", tmp_path / "made")
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "made" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "made")
    exec(snippet, {})
    expected = load_trained("last", parent=tmp_path / "runs").output(torch.zeros(1, 2))
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.skipif(HAS_HUB, reason="the extra hub is installed")
def test_an_upload_without_the_extra_is_an_error_before_the_work(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"an upload needs huggingface_hub.*\n.*pip install 'hookline\[hub\]'"):
        export_model(load_trained(saved), load_format("hub-folder", {"export.upload": "me/houses"}), tmp_path / "made")
    assert not (tmp_path / "made").exists()


@contextmanager
def hub(status: int = 200) -> Iterator[tuple[str, dict[str, Any]]]:
    """A stand-in for the Hub: it takes repositories and commits, and gives its address and what it was sent."""
    sent: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer: Any = {}
            if "create" in self.path:
                sent["create"], sent["token"] = json.loads(body), self.headers["Authorization"]
                answer = {"url": f"{address}/me/houses", "name": "me/houses"}
            elif "preupload" in self.path:
                files = json.loads(body)["files"]
                answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            elif "commit" in self.path:
                sent["commit"] = [json.loads(line) for line in body.splitlines()]
                answer = {"commitUrl": f"{address}/me/houses/commit/1", "commitOid": "1", "success": True}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET  # noqa: N815 - the names that the server looks for

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address, sent
        finally:
            server.shutdown()
            thread.join()


UPLOAD = """
from pathlib import Path
from hookline.trained import load_format
form = load_format("hub-folder", {"export.upload": "me/houses", "export.private": True})
try:
    print(form.made.publish(Path("houses")))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not HAS_HUB, reason="the extra hub is not installed")
@pytest.mark.parametrize("status", [200, 403])
def test_the_client_of_the_hub_uploads_every_file_and_a_refusal_leaves_the_folder(
    made: Path, tmp_path: Path, status: int
) -> None:
    with hub(status) as (address, sent):
        # The client reads its settings when it is imported. The token is its own.
        home = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_mine", "PYTHONWARNINGS": ""}
        done = run([sys.executable, "-c", UPLOAD], cwd=made.parent, **home)
    assert (sent["create"]["name"], sent["create"]["organization"]) == ("houses", "me")
    assert (sent["create"]["visibility"], sent["token"]) == ("private", "Bearer hf_mine")
    if status == 403:
        assert done.stdout.startswith("ConfigError houses is complete, but was not uploaded to me/houses: 403")
        return
    assert done.stdout == f"uploaded to {address}/me/houses/commit/1\n", done.stderr
    files = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in sent["commit"][1:]}
    assert files == {path.name: path.read_bytes() for path in made.iterdir()}


@pytest.mark.skipif(not HAS_HUB, reason="the extra hub is not installed")
def test_the_client_of_the_hub_reads_the_header_of_the_card(made: Path) -> None:
    from huggingface_hub import ModelCard  # type: ignore[import-not-found,unused-ignore] # in an extra

    found = ModelCard.load(made / "README.md").data
    assert found.tags == ["hookline", "a: b", "x\\n- evil", "'\"\\", "ö"]
    assert (found.license, found.library_name) == ("apache-2.0", "hookline")
    assert found.model_name == 'Houses: "cheap" # *now*\\n---\\nlicense: other'
    values = {one.metric_name: one.metric_value for one in found.eval_results}
    assert isinstance(values["train/accuracy"], float)


def test_a_name_of_a_repository_that_is_none_is_an_error(made: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ConfigError, match="was not uploaded to not a name"):
        load_format("hub-folder", {"export.upload": "not a name"}).made.publish(made)  # type: ignore[attr-defined]
