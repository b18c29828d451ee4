"""The driver of a proof: errors of its processes. Real runs, kills and resumes are tested in integration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hookline import ConfigError, DataError, TrainingError
from hookline.trials.proof.driver import Driver, first_order

FAILS = """
import json, sys
order = json.load(sys.stdin)
with open(order["reports"], "w") as file:
    file.write(json.dumps({"event": "failed", "what": "no such table", "kind": "ConfigError"}) + "\\n")
"""
KILLED = """
import json, sys
order = json.load(sys.stdin)
events = [{"event": "begun"}, {"event": "failed", "kind": "PeerError", "what": "rank 1 failed"}]
with open(order["reports"], "w") as file:
    for event in [*events, {"event": "failed", "kind": "DataError", "what": "no such row"}, events[1]]:
        file.write(json.dumps(event) + "\\n")
"""
DIES = "import sys; print('one'); print('two'); sys.exit(7)"


def driver(folder: Path, program: str) -> Driver:
    order = first_order(folder, [], files=[], allow=[], deny=[])
    command = [sys.executable, "-c", program]
    return Driver(folder, command, order, {}, {}, on_part=lambda *_: None, on_note=lambda _: None)


def test_a_process_that_reports_an_error_is_an_error_of_that_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run cannot be built: no such table"):
        driver(tmp_path, FAILS).prove(1, 0, None)


def test_a_process_that_dies_without_a_report_is_an_error_with_its_exit_code_and_output(tmp_path: Path) -> None:
    message = "the run fails without interruption: its process exited with code 7\none\ntwo"
    with pytest.raises(TrainingError, match=message):
        driver(tmp_path, DIES).prove(1, 0, every_steps=3)


def test_the_error_is_that_of_the_rank_that_failed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the run fails without interruption: no such row"):
        driver(tmp_path, KILLED).prove(1, 0, every_steps=3)
