"""Any run folder, any file of metrics, any table: read or reported as a fault, and nothing lost, torn or executed."""

from __future__ import annotations

import json
import math
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hookline import ConfigError, ContractError, DataError, Run, hookimpl, load_config
from hookline.runs import RunFolder, find_run
from hookline.runs.curves import metric_names, read_curves
from hookline.runs.disk.durable_files import AppendedFile
from hookline.runs.names import check_name
from hookline.runs.record import read_record
from hookline_plugins.callbacks.json_lines import JSONLines
from hookline_plugins.data.tables.table import Table
from reliability.fuzz_targets import GOOD_RECORD, TARGETS, check_error, run_folder, show_runs
from support import HANG_S

# Each example writes its files anew, so that a folder can be shared.
quick = settings(
    derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", ["name", "record", "metrics", "csv"])
def test_the_bytes_that_the_fuzzer_begins_with_hold(name: str, tmp_path: Path) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].fuzz(seed, tmp_path)


# ---- run folders -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(json.loads(GOOD_RECORD))), JSON, max_size=2)
HOSTILE_TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\x1b\x07\x9b\u202e\r\n/.\0"), max_size=8)


@quick
@given(fields=FIELDS, text=HOSTILE_TEXTS, number=st.sampled_from([0, -1, 2**62, 2**64, 10**30]))
def test_any_record_is_read_or_reported_and_the_other_runs_are_listed(
    fields: dict[str, Any], text: str, number: int, tmp_path: Path
) -> None:
    record = json.loads(GOOD_RECORD)
    record |= {"metrics": {text: 0.5}, "step": number, "git": text, "identity": {"settings": {text: text}}} | fields
    TARGETS["record"].fuzz(json.dumps(record).encode(), tmp_path)


@quick
@given(data=st.binary(max_size=20) | st.just(b"[" * 10**5) | st.just(b'{"identity":' * 10**5))
def test_any_bytes_are_a_record_or_a_reported_fault(data: bytes, tmp_path: Path) -> None:
    TARGETS["record"].fuzz(data, tmp_path)


def test_a_record_that_is_not_a_file_or_too_large_is_not_waited_for(tmp_path: Path) -> None:
    path = run_folder(tmp_path)
    os.mkfifo(path / "run.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_record(path)
    (path / "run.json").unlink()
    with (path / "run.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="EFBIG"):
        read_record(path)
    show_runs(tmp_path, ["list"], ["show", "1"])


@settings(quick, max_examples=200)
@given(
    name=HOSTILE_TEXTS
    | st.sampled_from(["..", "-rf", "CON", "nul.txt", "a" * 101, "a" * 5000, "9" * 5000, "\ud800", "é"])
)
def test_any_text_names_a_run_or_none_and_what_can_be_a_name_is_one_file(name: str, tmp_path: Path) -> None:
    TARGETS["name"].fuzz(name.encode(errors="surrogatepass"), tmp_path)
    (tmp_path / "runs").mkdir(exist_ok=True)
    for read in (lambda: find_run(name, tmp_path / "runs"), lambda: check_name(name)):
        try:
            read()
        except ConfigError as error:
            check_error(error)


@settings(quick, max_examples=20)
@given(name=HOSTILE_TEXTS | st.sampled_from(["..", "a/b", "/tmp/x", "", " ", ".", "last", "best", "\ud800"]))
def test_an_invalid_name_makes_no_folder(name: str, tmp_path: Path) -> None:
    try:
        RunFolder.claim(tmp_path / "runs", name).close()
    except ConfigError as error:
        check_error(error)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}
    assert all(path.name[:4].isdigit() or path.name in ("last", ".lock") for path in tmp_path.glob("runs/*"))


@pytest.mark.parametrize("parent", ["a" * 300, "a\0b", "file", "file/x", "\ud800"])
def test_a_place_that_cannot_hold_runs_is_reported(parent: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        find_run("x", tmp_path / parent)
    check_error(caught.value)


# ---- metrics ---------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.none() | st.booleans() | st.text(max_size=3)
ROWS = st.dictionaries(st.sampled_from(["step", "epoch", "train/loss", "x", "\x1b[31m", "\u202e"]), NUMBERS, max_size=4)
LINES = st.lists(ROWS.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=8), max_size=8).map(b"\n".join)


@quick
@given(data=LINES)
def test_any_file_of_metrics_is_drawn_as_far_as_it_can_be_and_keeps_its_lines(data: bytes, tmp_path: Path) -> None:
    TARGETS["metrics"].fuzz(data, tmp_path)


@quick
@given(names=st.lists(st.text(max_size=6), unique=True, max_size=4), value=st.floats())
def test_any_metric_name_comes_back_from_a_line(names: list[str], value: float, tmp_path: Path) -> None:
    path = run_folder(tmp_path)
    (path / "metrics.jsonl").unlink(missing_ok=True)
    file = AppendedFile(path / "metrics.jsonl")
    row = {"epoch": 1, "step": 2, **{f"m/{name}": value for name in names}}
    file.append(msgspec.json.encode(row).decode())
    file.close()
    (line,) = (path / "metrics.jsonl").read_bytes().splitlines()
    assert json.loads(line) == {**row, **{f"m/{name}": value if math.isfinite(value) else None for name in names}}
    assert metric_names(path) == [f"m/{name}" for name in names]
    assert len(read_curves(path, metric_names(path))) == (len(names) if math.isfinite(value) else 0)


@settings(quick, max_examples=100)
@given(data=st.binary(max_size=40), size=st.none() | st.integers(0, 50), line=st.text(max_size=5))
def test_a_file_of_any_bytes_keeps_its_whole_lines_and_those_that_follow(
    data: bytes, size: int | None, line: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(data)
    file = AppendedFile(tmp_path / "f", size)
    file.append(line)
    file.close()
    whole = data[: data.rfind(b"\n") + 1]
    assert (tmp_path / "f").read_bytes() == whole[:size] + line.encode() + b"\n"


def test_a_million_lines_are_drawn_in_bounded_time_and_memory(tmp_path: Path) -> None:
    path = run_folder(tmp_path)
    with (path / "metrics.jsonl").open("w") as written:
        for start in range(0, 10**6, 1000):
            written.write("".join(f'{{"epoch":1,"step":{step},"x":0.5}}\n' for step in range(start, start + 1000)))
    begin = time.perf_counter()
    (curve,) = read_curves(path, ["x"])
    assert time.perf_counter() - begin < HANG_S
    assert (curve.num_values, curve.last) == (10**6, 0.5)
    assert len(curve.points) <= 128
    with (path / "metrics.jsonl").open("rb+") as torn:
        torn.truncate(20_000_000)
    tracemalloc.start()
    file = AppendedFile(path / "metrics.jsonl")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    file.close()
    assert (path / "metrics.jsonl").read_bytes()[-2:] == b"}\n"


@pytest.mark.parametrize("text", ["\x1b[31m", "\x7f", "\x9b31m", "\u202e", "\U000e0001", "\ud800", "\n", '"'])
def test_a_line_for_programs_is_json_and_does_nothing_to_a_terminal(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    JSONLines().on_warning(Run(load_config()), text)
    line = capsys.readouterr().out.removesuffix("\n")
    assert line.isprintable()
    assert json.loads(line)["message"] == ("\\ud800" if text == "\ud800" else text)


# ---- tables ----------------------------------------------------------------------------------------------------------

CELLS = st.sampled_from(["1", "-2.5", "", " 3 ", "x", "é", '"1"', '"a,b"', '"a\nb"', '"', "1e999", "nan", "NA", "3,5",
                         "\0", "9" * 5000, "\x1b[31m", "\ufeff", "\r", "=1+1"])  # fmt: skip
HEADS = st.sampled_from(
    ["a,y", "a,b,y", "y", "y,y", "a;y", '"a",y', "a\ty", "", ",y", "\ufeffa,y", "\x1b,y", "y,a\x9b"]
)
CHOICES = st.tuples(st.integers(0, 71), st.integers(0, 5)).map(bytes)
END = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])


@settings(quick, max_examples=150)
@given(
    choices=CHOICES,
    head=HEADS,
    rows=st.lists(st.lists(CELLS, max_size=4), max_size=6),
    end=END,
    junk=st.binary(max_size=3),
)
def test_any_table_is_read_or_refused(
    choices: bytes, head: str, rows: list[list[str]], end: str, junk: bytes, tmp_path: Path
) -> None:
    text = end.join([head, *(",".join(row) for row in rows)])
    TARGETS["csv"].fuzz(choices + text.encode() + junk, tmp_path)


def test_a_header_that_has_each_of_ten_thousand_names_twice_is_reported_at_once(tmp_path: Path) -> None:
    width = 20_000
    text = f"{','.join(f'c{number // 2}' for number in range(width))},y\n{'1,' * width}1\n"
    (tmp_path / "t.csv").write_text(text)
    begin = time.process_time()
    with pytest.raises(DataError, match="cannot be used: 10,000 faults"):
        Table(path=tmp_path / "t.csv", target="y").build_data()
    # Compared each with each, they take minutes.
    assert time.process_time() - begin < HANG_S


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("one_hot", [(), ("a",)])
def test_numbers_of_five_thousand_digits_are_reported(task: Any, one_hot: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"a,y\n{'9' * 5000},{'8' * 5000}\n2,1\n")
    with pytest.raises(DataError) as caught:
        Table(path=tmp_path / "t.csv", target="y", task=task, one_hot=one_hot).build_data()
    check_error(caught.value)
    assert len(str(caught.value)) < 2000


class Named:
    """A callback that reports a metric under a given name."""

    def __init__(self, name: Any) -> None:
        self.name = name

    @hookimpl
    def build_metrics(self) -> dict[Any, Any]:
        return {self.name: self}

    def reset(self) -> None: ...

    def update(self, prediction: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return 0.0


@pytest.mark.parametrize("name", ["\ud800", "a\udcff", 3, None])
def test_a_metric_with_a_name_that_cannot_be_saved_is_refused_before_the_first_step(name: Any) -> None:
    with pytest.raises(ContractError, match="whose name is not text that a file can hold") as caught:
        Run(load_config({"data": {"num_examples": 20}}, plugins={"callbacks.named": Named(name)}))
    check_error(caught.value)


class Many(Named):
    """A callback that reports far too many metrics."""

    @hookimpl
    def build_metrics(self) -> dict[str, Any]:
        return dict.fromkeys(map(str, range(100_001)), self)


def test_more_metrics_than_a_record_can_hold_are_refused_before_the_first_step() -> None:
    with pytest.raises(ContractError, match=r"there are 100,001 metrics, but at most 100,000 are possible"):
        Run(load_config({"data": {"num_examples": 20}}, plugins={"callbacks.many": Many("x")}))
