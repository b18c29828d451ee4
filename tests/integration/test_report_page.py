"""The page of a report in a real browser: nothing runs but its script, at any width, by mouse and by keyboard."""

from __future__ import annotations

import json
import math
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hookline.runs import BestValue, RunFolder
from hookline.sections import (
    Axis,
    Bars,
    Curves,
    Histogram,
    Image,
    Images,
    Matrix,
    ParallelCoordinates,
    Scatter,
    Section,
    Series,
    Table,
    Text,
    bounded,
)
from hookline_plugins.drawing.of_run import sections_of_run
from hookline_plugins.drawing.page import report_page
from support import HANG_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

MARKUP = "<img src=x onerror=document.title='hacked'></script><script>document.title='hacked'</script>"


def picture_file() -> bytes:
    """Return a grey PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0\x80")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


STEPS = [float(step) for step in range(1, 301)]


def each_kind(name: str) -> list[Section]:
    falling = [100.0 / step for step in STEPS]
    falling[50] = math.nan
    series = [Series(name=f"{name} {split}", steps=STEPS, values=falling) for split in ("train", "validation")]
    rates = Series(name=name, steps=[0, 0, 0, 0.5, 1], values=[0, 0.5, 0.9, 1, 1])
    made: list[Section] = [
        Table(title=name, topic="run", columns=["key", name], rows=[["b", 1], ["a", 2], [name, None]], marked=[0]),
        Curves(title=name, topic="curves", series=series, y_label=name),
        Curves(title=name, series=[rates], x_label=name, is_trace=False, has_diagonal=True),
        Scatter(title=name, x=STEPS, y=falling, x_label=name, y_label=name, line="identity"),
        Histogram(title=name, topic="data", edges=[0, 1, 2], counts=[3, 4], x_label=name),
        Bars(title=name, topic="data", labels=[name, "b"], values=[-1.5, 2], value_label=name),
        Matrix(title=name, row_labels=[name], column_labels=[name, "y"], counts=[[1, 2]], row_title=name),
        Text(title=name, topic="warnings", paragraphs=[name], note=name),
        Text(title=name, topic="repeat", paragraphs=[f"{name} " * 20], is_preformatted=True),
        Images(title=name, images=[Image(data=picture_file(), caption=name)]),
        ParallelCoordinates(
            title=name,
            topic="run",
            labels=[name, "b"],
            axes=[
                Axis(name=name, values=[name, "x"]),
                Axis(name="lr", values=[0.1, None]),
                Axis(name="z", values=[1, 2]),
            ],
        ),
    ]
    return [bounded(section) for section in made]


def hostile_run(folder: Path) -> list[Section]:
    """Return the sections of a run with markup in every text and two thousand metrics."""
    run = RunFolder.claim(folder, "hostile")
    run.record.best = BestValue(MARKUP, "min", 1.0, 1, 1)
    run.record.metrics = {MARKUP: 1.0, "x": None}
    run.record.warnings = [MARKUP]
    run.record.summary = {MARKUP: [{MARKUP: MARKUP}]}
    run.record.identity = {"settings": {MARKUP: MARKUP, "a.b": [MARKUP]}, "versions": {MARKUP: MARKUP}}
    run.save()
    many = {f"m{number}{MARKUP}": 1.0 for number in range(2000)}
    with (run.path / "metrics.jsonl").open("w") as file:
        file.write(json.dumps({"step": 0, "loss": 1.0, MARKUP: 1.0, **many}) + "\n")
    (run.path / "log.txt").write_text(f"{MARKUP}\n" * 50)
    run.close()
    return sections_of_run(run.path)


def long_run(folder: Path) -> list[Section]:
    """Return the sections of a run with a million values, of which some are not finite."""
    run = RunFolder.claim(folder, "long")
    values = ("null" if step % 9 == 0 else step for step in range(10**6))
    with (run.path / "metrics.jsonl").open("w") as file:
        file.writelines(f'{{"step":{step},"loss":{value}}}\n' for step, value in enumerate(values))
    run.close()
    return sections_of_run(run.path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a report of sections from disk; no message may reach the console, and nothing may be loaded."""
    messages: list[str] = []
    pages: list[Page] = []

    def opened(sections: list[Section], *, width: int = 1280, scheme: Any = "light", title: str = "a run") -> Page:
        file = tmp_path / "report.html"
        file.write_text(report_page(title, title, sections))
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(HANG_S * 1000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.extend([request.url] if request.url.startswith("http") else []))
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert messages == []


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_each_kind_is_drawn_within_the_width_of_the_window(show: Callable[..., Page], width: int, scheme: str) -> None:
    page = show(each_kind("plain"), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("section").count() == len(each_kind("plain"))
    assert page.locator("canvas").count() == 2
    assert page.locator("polyline").count() == 2
    assert page.locator("img").evaluate("image => image.naturalWidth") == 1
    assert (background(page) == "rgb(255, 255, 255)") == (scheme == "light")
    names = page.locator("section, .hl-chart, [role=img], nav").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert all(names)


def test_a_hostile_run_is_shown_as_text(show: Callable[..., Page], tmp_path: Path) -> None:
    page = show([*hostile_run(tmp_path), *long_run(tmp_path), *each_kind(MARKUP)], title=MARKUP)
    assert page.title() == MARKUP
    assert page.locator("h1").text_content() == MARKUP
    assert page.locator("img").count() == 1  # that of the section with images
    assert page.locator("script").count() == 3
    assert page.get_by_text("metrics are left out").count() == 1


def test_a_chart_is_read_and_zoomed_by_the_keyboard(show: Callable[..., Page]) -> None:
    page = show(each_kind("plain"))
    chart, value = page.locator(".hl-chart").first, page.locator(".hl-legend .hl-value").first
    readout, reset = page.locator(".hl-readout").first, page.locator(".hl-reset").first
    assert value.text_content() == "0.333333"
    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert (readout.text_content(), value.text_content()) == ("step 2", "50")
    assert reset.is_hidden()
    page.keyboard.press("+")
    reset.wait_for()
    page.keyboard.press("Escape")
    reset.wait_for(state="hidden")


def test_a_gap_has_no_value_and_the_mouse_reads_and_zooms(show: Callable[..., Page]) -> None:
    page = show(each_kind("plain"))
    over = page.locator(".u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 50 / 299, box["y"] + 50)
    assert page.locator(".hl-readout").first.text_content() == "step 51"
    assert page.locator(".hl-legend .hl-value").first.text_content() == "\N{EN DASH}"
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    page.mouse.up()
    page.locator(".hl-reset").first.wait_for()
    page.locator(".hl-reset").first.click()
    page.locator(".hl-reset").first.wait_for(state="hidden")


def test_smoothing_the_scale_and_the_legend_change_the_picture(show: Callable[..., Page]) -> None:
    page = show(each_kind("plain"))
    chart = page.locator(".hl-chart canvas").first

    def picture() -> str:
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return str(chart.evaluate("canvas => canvas.toDataURL()"))

    seen = [picture()]
    page.get_by_label("Smoothing").fill("0.9")
    seen.append(picture())
    page.get_by_label("Logarithmic scale").check()
    chart = page.locator(".hl-chart canvas").first
    seen.append(picture())
    button = page.get_by_role("button", name="plain train").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    seen.append(picture())
    assert len(set(seen)) == 4


def test_a_table_is_sorted_by_its_heads(show: Callable[..., Page]) -> None:
    page = show(each_kind("plain"))
    first = page.locator("tbody").first.locator("tr").first
    assert first.locator("td").first.text_content() == "b"
    page.get_by_role("button", name="key").first.press("Enter")
    assert first.locator("td").first.text_content() == "a"
    assert page.locator("th").first.get_attribute("aria-sort") == "ascending"
