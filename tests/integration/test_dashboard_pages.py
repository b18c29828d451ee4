"""The pages of `hookline dashboard` in a real browser: a run at work, ten thousand runs, hostile runs, the keyboard."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from hookline.runs import BestValue, RunFolder
from support import HANG_S

Browser: TypeAlias = Any  # of playwright, which may be missing, as the next
Page: TypeAlias = Any
PROGRAM = str(Path(sys.executable).parent / "hookline")
CHROMIUM = shutil.which("chromium")
MARKUP = "<img src=x onerror=document.title='hacked'><script>document.title='hacked'</script>"
SIZES = {"wide": (1280, 800), "narrow": (400, 800)}

pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        expect.set_options(timeout=HANG_S * 1000)
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if it writes a message to the console, or asks for anything that is not there."""
    messages: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.set_default_timeout(HANG_S * 1000)
    yield page
    page.close()
    assert messages == []


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Start the dashboard of a folder, and return its address."""
    processes: list[subprocess.Popen[str]] = []

    def started(parent: Path) -> str:
        command = [PROGRAM, "dashboard", str(parent), "--port", "0", "--quiet"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert processes[-1].stdout is not None
        return processes[-1].stdout.readline().strip()

    yield started
    for process in processes:
        process.terminate()
    assert [process.communicate(timeout=HANG_S)[1] for process in processes] == [""] * len(processes)


def write_run(parent: Path, label: str, **values: Any) -> Path:
    folder = RunFolder.claim(parent, label)
    loss = 1.0 / (len(list(parent.iterdir())) - 2)
    settings = {"optimizer.lr": round(loss / 10, 4), "model.use": "mlp"}
    given = {"status": "completed", "epochs": 2, "num_epochs": 2, "step": 20, "metrics": {"loss": loss}}
    given |= {"best": BestValue("loss", "min", loss, 2, 20), "identity": {"settings": settings}}
    for name, value in (given | values).items():
        setattr(folder.record, name, value)
    folder.save()
    folder.close()
    lines = [{"epoch": 1, "step": 10, "loss": 2 * loss}, {"epoch": 2, "step": 20, "loss": loss}]
    (folder.path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder.path / "log.txt").write_text("the log\n")
    return folder.path


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("pages") / "runs"
    for label in ("first", "second", "third"):
        write_run(parent, label)
    (parent / "0002-second" / "notes.json").write_text('{"tags": ["baseline"], "note": "the one to beat", "format": 1}')
    (parent / "0003-third" / "run.json").write_text("{")
    return parent


@pytest.fixture(scope="module")
def address(serve: Callable[[Path], str], parent: Path) -> str:
    return serve(parent)


def names_of(page: Page) -> list[str]:
    return list(page.locator("tbody a").all_inner_texts())


# ---- the list --------------------------------------------------------------------------------------------------------


def test_runs_are_searched_sorted_and_shown_with_a_setting(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("tbody a")
    assert names_of(page) == ["0003-third", "0002-second", "0001-first"]
    page.get_by_role("button", name="best").click()
    assert names_of(page) == ["0002-second", "0001-first", "0003-third"], "a run without a value comes last"
    for text, found in {
        "BEAT": ["0002-second"],
        "baseline": ["0002-second"],
        "best<0.7": ["0002-second"],
        "none": [],
    }.items():
        page.get_by_label("Search", exact=True).fill(text)
        assert names_of(page) == found, text
    page.get_by_label("Search", exact=True).fill("")
    page.get_by_label("Status").select_option("unreadable")
    assert names_of(page) == ["0003-third"]
    page.get_by_label("Status").select_option("")
    page.get_by_text("Columns", exact=True).click()
    page.get_by_label("Search the columns").fill("lr")
    page.get_by_label("optimizer.lr").check()
    page.wait_for_selector("th:has-text('optimizer.lr')")
    page.keyboard.press("Escape")
    page.get_by_label("Search", exact=True).fill("lr>0.06")
    assert names_of(page) == ["0001-first"]
    page.reload()
    page.wait_for_selector("th:has-text('optimizer.lr')")
    page.wait_for_selector("tbody a")
    assert names_of(page) == ["0001-first"], "the address keeps what is shown"


def test_the_list_and_the_tabs_work_with_the_keyboard_alone(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("tbody a")
    focused = page.locator(":focus")
    page.locator(".rows").focus()
    page.keyboard.press("End")
    expect(focused).to_have_text("0001-first")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    expect(focused).to_have_text("0002-second")
    page.keyboard.press("Space")
    assert page.get_by_text("Compare 2").get_attribute("aria-disabled") == "false"
    page.keyboard.press("Enter")
    page.wait_for_selector("nav.tabs")
    assert page.locator("h1").inner_text() == "0002-second"
    page.get_by_role("link", name="Log").focus()
    page.keyboard.press("Enter")
    expect(page.locator("pre")).to_have_text("the log")
    page.go_back()
    page.go_back()
    page.wait_for_selector("tbody a")


def test_of_ten_thousand_runs_only_those_on_the_screen_are_elements(page: Page, address: str) -> None:
    row = {"status": "completed", "problem": "", "best": 1, "metric": "loss", "epochs": 1, "num_epochs": 1, "step": 1}
    row |= {"time_s": 1, "started": None, "tags": [], "note": "", "cells": []}
    rows = [{**row, "name": f"{number:05d}-run"} for number in range(1, 10_001)]
    changes = {"version": 1, "is_whole": True, "rows": rows}
    page.route("**/api/runs?*", lambda route: route.fulfill(json={"folder": "runs", "changes": changes}))
    page.goto(address)
    page.wait_for_selector("tbody a")
    assert page.locator("h1").inner_text() == "Runs in runs"
    assert page.locator("tbody tr").count() < 100
    page.locator(".rows").focus()
    page.keyboard.press("End")
    expect(page.locator(":focus")).to_have_text("00001-run")
    assert page.locator("tbody tr").count() < 100
    box, last = page.locator(".rows").bounding_box(), page.locator("tbody tr", has_text="00001-run").bounding_box()
    assert box
    assert last
    assert box["y"] < last["y"]
    assert last["y"] + last["height"] <= box["y"] + box["height"]


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_the_curve_of_a_run_at_work_grows(page: Page, serve: Callable[[Path], str], tmp_path: Path) -> None:
    command = [PROGRAM, "train", "--quiet", "train.epochs=100000", "callbacks.checkpoint.every_steps=100000"]
    training = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        folder = tmp_path / "runs" / "0001-synthetic-linear-linear"
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_bytes():
            assert training.poll() is None
        page.goto(serve(tmp_path / "runs"))
        page.wait_for_selector(".badge-running")
        page.get_by_text(folder.name).click()
        page.wait_for_selector("canvas")
        assert page.locator("#state").inner_text() in ("", "live")
        chart = page.locator(".hl-chart")
        for _ in range(2):
            expect(chart).not_to_have_attribute("aria-label", chart.get_attribute("aria-label") or "")
    finally:
        training.send_signal(signal.SIGINT)
        training.wait(HANG_S)
    page.get_by_text("interrupted").wait_for()
    assert page.locator("#state").inner_text() == ""


def test_runs_are_compared_over_each_other(page: Page, address: str) -> None:
    page.goto(f"{address}#/compare?run=0001-first&run=0002-second")
    page.wait_for_selector("canvas")
    assert page.locator(".hl-legend .hl-name").all_inner_texts() == ["0001-first: loss", "0002-second: loss"]
    page.wait_for_selector("text=Differences")
    assert "optimizer.lr" in page.locator(".hl-kind-table", has_text="Differences").inner_text()
    assert page.locator("polyline").count() == 2


def test_what_is_not_there_is_said(page: Page, address: str) -> None:
    page.goto(f"{address}#/nowhere")
    page.get_by_text("There is no such page.").wait_for()
    page.goto(f"{address}#/compare")
    page.get_by_text("Choose runs in the").wait_for()


# ---- hostile runs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(serve: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs whose every text is markup, with a million points, with NaN, with two thousand metrics."""
    parent = tmp_path_factory.mktemp("hostile") / "runs"
    path = write_run(
        parent,
        "markup",
        metrics={MARKUP: 1.0, "train/loss": None},
        best=BestValue(MARKUP, "min", 1.0, 1, 1),
        identity={"settings": {MARKUP: MARKUP, "optimizer.lr": 0.1}, "versions": {MARKUP: MARKUP}},
        summary={MARKUP: [{MARKUP: MARKUP}]},
        warnings=[MARKUP],
    )
    (path / "notes.json").write_text(json.dumps({"tags": ["<b>"], "note": MARKUP, "format": 1}))
    (path / "log.txt").write_text(f"{MARKUP}\n\x1b[31m\u202e\0")
    rows = [
        {"step": step, MARKUP: step, "train/loss": None if step % 2 else 1e308, "</script>": 1} for step in range(9)
    ]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path.rename(parent / f"0001-{MARKUP.replace('/', '')}")
    path = write_run(parent, "long")
    with (path / "metrics.jsonl").open("w") as file:
        file.writelines(f'{{"epoch":1,"step":{step},"loss":{1 + step % 7}}}\n' for step in range(1_000_000))
    (path / "log.txt").write_text("a line of the log\n" * 100_000)
    path = write_run(parent, "many")
    names = [f"metric {number}" for number in range(2000)]
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, **dict.fromkeys(names, s)}) + "\n" for s in range(50))
    )
    return serve(parent)


@pytest.mark.parametrize("tab", ["curves", "details", "checkpoints", "log"])
def test_markup_in_a_run_is_text(page: Page, hostile: str, tab: str) -> None:
    page.goto(hostile)
    page.wait_for_selector("tbody a")
    page.locator("tbody a").last.click()
    page.wait_for_selector("nav.tabs")
    page.locator("nav.tabs a", has_text=re.compile(tab, re.IGNORECASE)).click()
    page.wait_for_selector(".hl-section, pre")
    page.wait_for_selector(".note")
    assert page.locator(".note").inner_text() == MARKUP
    assert page.locator("main img, main script").count() == 0
    assert "hacked" not in page.title().replace(MARKUP.replace("/", ""), "")


def test_markup_in_names_is_text_where_runs_are_compared(page: Page, hostile: str) -> None:
    page.goto(hostile)
    page.wait_for_selector("tbody a")
    page.locator("tbody input").first.check()
    page.locator("tbody input").last.check()
    page.get_by_text("Compare 2").click()
    page.wait_for_selector("canvas")
    page.wait_for_selector("text=Differences")
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Comparison \N{EN DASH} Hookline"


def test_a_million_points_and_two_thousand_metrics_are_drawn(page: Page, hostile: str) -> None:
    page.goto(f"{hostile}#/run/0002-long/curves")
    page.wait_for_selector("canvas")
    page.goto(f"{hostile}#/run/0002-long/log")
    expect(page.locator("pre")).to_contain_text("a line of the log")
    assert page.locator("pre").evaluate("pre => pre.textContent.length") < 2**20
    page.goto(f"{hostile}#/run/0003-many/curves")
    page.get_by_text("metrics are left out").wait_for()
    assert page.locator("canvas").count() < 100


# ---- sizes and colours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_nothing_is_wider_than_the_window(browser: Browser, address: str, hostile: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    for where in (
        "#/",
        "#/run/0001-first/curves",
        "#/run/0001-first/details",
        "#/compare?run=0001-first&run=0002-second",
    ):
        page.goto(f"{address}{where}")
        page.wait_for_selector("tbody a, .hl-section")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, where
    page.goto(hostile)
    page.wait_for_selector("tbody a")
    page.locator("tbody a").last.click()
    page.wait_for_selector(".hl-section")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (brightness(ground) > brightness(ink)) == (scheme == "light")
    page.close()


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
