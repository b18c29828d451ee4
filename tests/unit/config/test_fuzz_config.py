"""Fuzz tests of configs, overrides and locks: read, or reported as faults; written configs are read unchanged."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hookline import Catalog, ConfigError, hookimpl, load_config
from hookline.config import Entry
from hookline.config.references import escaped
from hookline.config.toml_positions import HIDDEN_IN_TEXT, MAX_DEPTH, MAX_FAULTS
from hookline.runs import complete_toml, read_lock
from reliability.fuzz_targets import TARGETS, check_error, same_config
from support import HANG_S

# Each example writes files with unique names, so that a folder can be shared.
quick = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def soup(*names: str) -> st.SearchStrategy[bytes]:
    """Bytes composed of pieces of valid files, of meaningful words and of arbitrary bytes."""
    targets = [TARGETS[name] for name in names]
    pieces = [piece for target in targets for seed in target.seeds for piece in seed.splitlines(keepends=True)]
    words = [word.encode() for target in targets for word in target.words]
    marks = [
        b"=",
        b" = ",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b".",
        b"\n",
        b"\r",
        b"\0",
        b"\x1b[31m",
        b"\xff",
        b"\xc2\x9b",
    ]
    part = st.sampled_from(pieces) | st.sampled_from([*words, *marks]) | st.binary(max_size=4)
    return st.lists(part, max_size=12).map(b"".join)


# ---- any input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "overrides", "lock"])
def test_the_seeds_of_the_fuzzer_pass(name: str, tmp_path: Path) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].fuzz(seed, tmp_path)


@quick
@given(data=soup("config"))
def test_any_bytes_are_a_config_that_is_written_unchanged_or_a_reported_fault(data: bytes, tmp_path: Path) -> None:
    TARGETS["config"].fuzz(data, tmp_path)


@quick
@given(data=soup("overrides", "config"))
def test_any_words_are_overrides_or_reported_faults(data: bytes, tmp_path: Path) -> None:
    TARGETS["overrides"].fuzz(data, tmp_path)


@quick
@given(data=soup("lock", "state"))
def test_any_bytes_are_a_lock_or_a_reported_fault(data: bytes, tmp_path: Path) -> None:
    TARGETS["lock"].fuzz(data, tmp_path)


# ---- written configs -------------------------------------------------------------------------------------------------


@dataclass
class Everything:
    """A callback with an option of each type."""

    text: str = ""
    number: float = 0.0
    integer: int = 0
    flag: bool = False
    path: Path = Path("x")
    texts: tuple[str, ...] = ()
    table: dict[str, Any] = field(default_factory=dict)
    either: int | str | None = "all"

    @hookimpl
    def on_run_end(self) -> None: ...


LETTERS = st.characters(codec="utf-8").filter(lambda c: not HIDDEN_IN_TEXT.search(c)) | st.sampled_from(
    "\"'\\#=[]{}$\t\né"
)
TEXTS = st.lists(LETTERS | st.just("${"), max_size=8).map("".join)
KEYS = TEXTS.filter(lambda text: "\t" not in text and "\n" not in text)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e22, 5e-324, -0.0, 1e16, 123456789.125])
PLAIN = st.recursive(
    st.booleans() | INTEGERS | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXTS,
        "number": NUMBERS,
        "integer": INTEGERS,
        "flag": st.booleans(),
        "path": TEXTS.filter(lambda text: "\0" not in text),
        "texts": st.lists(TEXTS, max_size=3),
        "table": st.dictionaries(KEYS, PLAIN, max_size=3),
        "either": INTEGERS | TEXTS,
    },
)
CATALOG = Catalog.installed().with_entries([Entry("callback", "everything", f"{__name__}:Everything", "t", "1")])


@quick
@given(options=OPTIONS, train=st.fixed_dictionaries({}, optional={"max_time_s": NUMBERS.map(abs), "device": TEXTS}))
def test_a_complete_config_is_read_as_the_same_config(
    options: dict[str, Any], train: dict[str, Any], tmp_path: Path
) -> None:
    source = {"callbacks": {"everything": escaped(options)}, "train": escaped(train)}
    config = load_config(source, catalog=CATALOG)
    given = next(choice.options for choice in config.plugins if choice.table == "callbacks.everything")
    assert {**given} | {"path": 0, "texts": 0} == {**given, **options, "path": 0, "texts": 0}
    (tmp_path / "complete.toml").write_text(complete_toml(config), encoding="utf-8")
    again = load_config(tmp_path / "complete.toml", catalog=CATALOG)
    same_config(config, again)
    assert complete_toml(again).count("\n") == complete_toml(config).count("\n")


def test_a_path_that_is_relative_to_its_file_is_the_same_path_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "run.toml").write_text("[callbacks.everything]\npath = '../data/x.csv'\n")
    config = load_config(tmp_path / "here" / "run.toml", catalog=CATALOG)
    (tmp_path / "complete.toml").write_text(complete_toml(config))
    again = load_config(tmp_path / "complete.toml", catalog=CATALOG)
    paths = [
        c.options["path"].resolve() for c in (*config.plugins, *again.plugins) if c.table == "callbacks.everything"
    ]
    assert paths == [tmp_path / "data" / "x.csv"] * 2


@pytest.mark.parametrize("value", ["\x1b[31m", "\x9b", "\u202e", "\ud800", "\r"])
def test_a_text_that_no_config_can_hold_is_left_out_of_it_and_shown_with_escapes(value: str, tmp_path: Path) -> None:
    config = load_config({"callbacks": {"everything": {"text": value, "integer": 3}}}, catalog=CATALOG)
    text = complete_toml(config)
    assert text.replace("\n", "").isprintable()
    assert '# text = "' in text
    (tmp_path / "complete.toml").write_text(text)
    (options,) = [
        choice.options
        for choice in load_config(tmp_path / "complete.toml", catalog=CATALOG).plugins
        if choice.table == "callbacks.everything"
    ]
    assert (options["text"], options["integer"]) == ("", 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_left_out_of_a_complete_config(value: float, tmp_path: Path) -> None:
    config = load_config({"callbacks": {"everything": {"number": value}}}, catalog=CATALOG)
    (tmp_path / "complete.toml").write_text(complete_toml(config))
    load_config(tmp_path / "complete.toml", catalog=CATALOG)
    assert f"# number = {value}" in complete_toml(config)


# ---- large inputs ----------------------------------------------------------------------------------------------------


def error_of(source: Any, words: Any = ()) -> ConfigError:
    """Return the error of a config, after checks that it is found in time and has a bounded length."""
    begin = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        load_config(source, words)
    assert time.perf_counter() - begin < HANG_S
    check_error(caught.value)
    return caught.value


MANY = {
    "callbacks": "".join(f"[callbacks.c{number}]\n" for number in range(9_900)),
    "keys": "[train]\n" + "".join(f"k{number} = 1\n" for number in range(9_900)),
    "tables": "".join(f"[t{number}]\n" for number in range(19_000)),
}


@pytest.mark.parametrize("text", MANY.values(), ids=MANY)
def test_of_thousands_of_faults_the_first_are_reported_and_the_rest_counted(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    error = error_of(tmp_path / "run.toml")
    count = text.count("\n") - text.count("[train]")
    assert error.message == f"the configuration has {count:,} faults"
    assert len(error.faults) == MAX_FAULTS + 1
    assert error.faults[-1].message == f"and {count - MAX_FAULTS:,} more"


def test_thousands_of_callbacks_are_a_config(tmp_path: Path) -> None:
    text = "".join(f'[callbacks.c{number}]\nuse = "json-lines"\n' for number in range(4_900))
    (tmp_path / "run.toml").write_text(text)
    begin = time.perf_counter()
    assert len(load_config(tmp_path / "run.toml").plugins) == 4_905
    assert time.perf_counter() - begin < HANG_S


def test_more_keys_than_the_limit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("".join(f'[callbacks.c{number}]\nuse = "x"\n' for number in range(10_000)))
    assert "there are more than 20,000 keys and values" in str(error_of(tmp_path / "run.toml"))


@pytest.mark.parametrize("start", ["model.hidden", "callbacks", "callbacks.c", "train", "x"])
def test_a_key_of_twenty_thousand_parts_is_refused(start: str) -> None:
    error = error_of(None, [f"{start}{'.a' * 20_000}=1", "model=mlp"])
    assert error.faults[0].message == f"this key has more than {MAX_DEPTH} parts"


@pytest.mark.parametrize(
    "word",
    [
        f"train.epochs={'x' * 10**6}",
        f"train.{'x' * 10**6}=1",
        "x" * 10**6,
        "train.epochs=[" * 10**5,
        f"{'x' * 10**6}=1",
    ],
    ids=["value", "key", "no value", "brackets", "table"],
)
def test_a_word_of_a_megabyte_is_reported_in_a_few_lines(word: str) -> None:
    assert len(str(error_of(None, [word]))) < 10_000


def test_a_lock_is_read_through_a_link_and_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "real.lock").write_bytes(TARGETS["lock"].seeds[0])
    (tmp_path / "run.lock").symlink_to("real.lock")
    assert read_lock(tmp_path / "run.lock").hookline == "0.1.0"
    os.mkfifo(tmp_path / "pipe.lock")
    for path in (tmp_path / "pipe.lock", Path("/dev/zero"), tmp_path, "a\0b", "\ud800"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_lock(path)


def test_a_lock_nested_without_end_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 10**5, '{"plugins":' * 10**5):
        (tmp_path / "run.lock").write_text(text)
        with pytest.raises(ConfigError, match="is not a valid lock"):
            read_lock(tmp_path / "run.lock")
