"""The command ``train``: its config, before the run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, RunConfig, load_config
from hookline.cli import arguments
from hookline.cli.arguments import unwanted_callbacks, without_callbacks
from hookline.cli.commands.main import hookline
from hookline.cli.output import Output
from hookline.config.run_config import OFF, SHOWN
from hookline.runs.redaction import REDACTED, Redaction

FILE = """\
[train]
epochs = 1
max_steps = 2

[callbacks.progress]
use = "progress"

[callbacks.run-folder]
"""


def with_switches(path: Path, words: Sequence[str], tables: Sequence[str]) -> RunConfig:
    return load_config(path, words, switches={SHOWN: dict.fromkeys(tables, OFF)})


@pytest.mark.parametrize("words", [[], ["callbacks.progress=progress"], ["callbacks.run-folder.name=x"]])
def test_callbacks_of_a_file_are_switched_off_as_if_it_had_been_loaded_so(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    tables = ["callbacks.progress", "callbacks.run-folder"]
    expected = with_switches(path, words, tables)
    found = without_callbacks(load_config(path, words), [*tables, "callbacks.json-lines"])
    assert found.plugins == expected.plugins
    assert list(found.settings) == list(expected.settings)
    for key, setting in expected.settings.items():
        assert (found.settings[key].value, found.settings[key].origin) == (setting.value, setting.origin)


def test_a_config_is_loaded_once_also_when_a_callback_of_the_file_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(FILE)
    loaded: list[Any] = []

    def counted(*given: Any, **named: Any) -> RunConfig:
        loaded.append(given)
        return load_config(*given, **named)

    monkeypatch.setattr(arguments, "load_config", counted)
    hookline.main(["train", "run.toml", "--json"], standalone_mode=False, obj=Output())
    assert len(loaded) == 1


def test_each_way_to_show_a_run_excludes_the_others() -> None:
    catalog = Catalog.installed()
    assert unwanted_callbacks(Output(json=True), catalog, is_saved=True) == ["callbacks.progress"]
    assert unwanted_callbacks(Output(), catalog, is_saved=True) == ["callbacks.json-lines"]


def test_a_secret_that_occurs_by_chance_leaves_numbers_and_keys_of_json_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(json=True, redaction=Redaction(values=["2026", "seed"]))
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    output.document({"seed": 20261, "at": moment, "text": "in 2026"})
    output.event("end", seed=20261, at=moment, text="in 2026")
    document, event = re.split(r"(?<=})\n", capsys.readouterr().out.strip())
    expected = {"seed": 20261, "at": "2026-01-02T00:00:00Z", "text": f"in {REDACTED}"}
    assert json.loads(document) == expected
    assert json.loads(event) == {"event": "end", **expected}
