"""HTML of results and configs: well-formed, escaped, bounded, and without secrets."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

import hookline
from hookline_plugins.callback_parts.html import curves, html_of, table

HOSTILE = '<script>alert(1)</script>"&\x1b[31m'


def _parsed(html: str | None) -> ET.Element:
    """Return HTML as elements; only what is also XML can be read."""
    assert html
    return ET.fromstring(html)


def _texts(html: str | None) -> set[str]:
    return {"".join(each.itertext()) for each in _parsed(html).iter("td")}


@pytest.fixture(scope="module")
def result() -> hookline.RunResult:
    """The result of a short run."""
    return hookline.train({"train": {"epochs": 2, "batch_size": 4}, "data": {"num_examples": 8}})


def test_hostile_names_and_warnings_are_text_and_nothing_else(result: hookline.RunResult) -> None:
    history = ({HOSTILE + "loss": 1.0}, {HOSTILE + "loss": math.nan}, {HOSTILE + "loss": 0.5})
    html = replace(result, history=history, metrics=history[0], warnings=(HOSTILE,), stop_reason=HOSTILE)._repr_html_()
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert {shown, f"{shown}loss"} <= _texts(html)
    assert [each.tag for each in _parsed(html).iter() if "script" in each.tag] == []
    [svg] = [each for each in _parsed(html).iter() if each.tag.endswith("svg")]
    assert svg.get("aria-label", "").startswith(f"{shown}loss over 3 epochs, from 0.5 to 1")
    [line] = [each for each in svg.iter() if each.tag.endswith("polyline")]
    assert line.get("points") == "0.0,0.0 420.0,140.0"


def test_two_thousand_metrics_and_a_million_epochs_stay_small(result: hookline.RunResult) -> None:
    many = {f"metric {number}": 1e300 * (-1) ** number for number in range(2000)}
    html = replace(result, metrics=many)._repr_html_()
    assert "<summary>1980 more</summary>" in (html or "")
    assert len(curves([{"loss": float(n)} for n in range(100_000)], ["loss"])) < 10_000
    assert curves([{"loss": 1.0}], ["loss"]) == ""
    logarithmic = curves([{"loss": 1000.0}, {"loss": 10.0}, {"loss": 0.1}], ["loss"])
    assert 'points="0.0,0.0 210.0,70.0 420.0,140.0"' in logarithmic
    assert "0.1 to 1000, logarithmic" in logarithmic
    assert "nan" not in curves([{"loss": 1e308}, {"loss": -1e308}], ["loss"])
    assert len(table(["x"], [["y" * 10_000]])) < 1000


def test_a_config_is_shown_without_its_secrets() -> None:
    secret = {"callbacks": {"telemetry": {}, "run-folder": {"parent": "https://me:hunter2@host/runs"}}}
    config = hookline.load_config(secret, {"optimizer.lr": 0.5})
    assert "hunter2" not in (config._repr_html_() or "")
    assert {"optimizer.lr", "0.5", "python", "telemetry"} <= _texts(config._repr_html_())
    assert html_of(object()) is None


def test_a_run_is_shown_before_and_after_its_steps() -> None:
    run = hookline.Run(hookline.load_config({"train": {"epochs": 1}}))
    assert {"not over", "0 of 100", "Linear, 3 parameters"} <= _texts(run._repr_html_())
    run.fit()
    assert {"completed", "100 of 100"} <= _texts(run._repr_html_())
