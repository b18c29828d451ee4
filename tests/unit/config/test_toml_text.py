"""Tests of ``hookline.config.toml_text``: positions, refusals, limits, and values on the command line."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from hookline.config.toml_positions import MAX_DEPTH, MAX_FAULTS, MAX_ITEMS
from hookline.config.toml_text import MAX_BYTES, Document, parse, parse_value
from hookline.engine.errors import ConfigError, Fault, Location
from support import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str, ...]


def marked(text: str, location: Location) -> str:
    """Return the characters that ``location`` underlines."""
    assert location.line is not None
    assert location.column is not None
    line = text.replace("\r\n", "\n").split("\n")[location.line - 1]
    assert location.text in {line, None}
    found = line[location.column - 1 : location.column - 1 + location.width]
    assert len(found) == location.width
    return found


def places_in(text: str) -> dict[Path, tuple[str, str]]:
    """Return for each path the text of its key and of its value."""
    document = parse(text, "run.toml")
    return {path: (marked(text, place.key), marked(text, place.value)) for path, place in document.places.items()}


def document_or_error(text: str) -> Document | ConfigError:
    try:
        return parse(text, "run.toml")
    except ConfigError as error:
        return error


def value_or_error(text: str) -> Any:
    try:
        return parse_value(text)
    except ValueError as error:
        return error


def faults_of(text: str) -> tuple[Fault, ...]:
    error = document_or_error(text)
    assert isinstance(error, ConfigError)
    return error.faults


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each path of ``value`` with its value, in the order of the text, through arrays."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), inner
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, path)


# Places


def test_a_key_and_its_value_are_found_with_line_column_and_width() -> None:
    place = parse("# first\n[optimizer]\n  lr =  1e-3  # small\n", "run.toml").places["optimizer", "lr"]
    assert place.key == Location("run.toml", 3, 3, "  lr =  1e-3  # small", 2)
    assert place.value == Location("run.toml", 3, 9, "  lr =  1e-3  # small", 4)


def test_the_parts_of_a_dotted_key_name_the_tables_that_it_creates() -> None:
    assert places_in("[t]\na . b.'c' = 1") == {
        ("t",): ("t", "t"),
        ("t", "a"): ("a", "a"),
        ("t", "a", "b"): ("a . b", "a . b"),
        ("t", "a", "b", "c"): ("a . b.'c'", "1"),
    }


def test_a_header_names_its_table_and_those_around_it() -> None:
    assert places_in("[ a.b ]\n[c]") == {("a",): ("a", "a"), ("a", "b"): ("a.b", "a.b"), ("c",): ("c", "c")}


def test_the_first_element_of_an_array_of_tables_gives_the_place() -> None:
    document = parse("[[a]]\nx = 1\n[[a]]\nx = 2\ny = 3", "run.toml")
    lines = {path: place.key.line for path, place in document.places.items()}
    assert lines == {("a",): 1, ("a", "x"): 2, ("a", "y"): 5}


def test_keys_of_inline_tables_are_found_inside_arrays_and_over_lines() -> None:
    text = "a = [1, {b = 'x', c.d = [2,\n 3]},\n # note }\n {e = 4}]"
    assert places_in(text) == {
        ("a",): ("a", "[1, {b = 'x', c.d = [2,"),
        ("a", "b"): ("b", "'x'"),
        ("a", "c"): ("c", "c"),
        ("a", "c", "d"): ("c.d", "[2,"),
        ("a", "e"): ("e", "4"),
    }


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ('"a b"', "a b"),
        ('"a\\u0062\\"."', 'ab".'),
        ("'a\\b'", "a\\b"),
        ('""', ""),
        ("'#='", "#="),
        ("1-_", "1-_"),
        ('"é"', "é"),
    ],
)
def test_a_quoted_key_is_found_under_its_name(key: str, name: str) -> None:
    assert places_in(f"{key} = 1") == {(name,): (key, "1")}


@pytest.mark.parametrize(
    "value",
    [
        '"a # b"',
        "'a \\ # b'",
        '"a \\" b"',
        '"""a "" b"""""',
        "'''a '' b'''''",
        '""',
        "''",
        '""""""',
        "1_000",
        "-0.0",
        "[]",
        "{}",
        "[[1], ['a]']]",
        "{a = [{}]}",
        "0xff",
    ],
)
@pytest.mark.parametrize("after", ["", "  ", " # note ]}'\"", "\r\n[z]"])
def test_a_value_is_marked_from_its_first_to_its_last_character(value: str, after: str) -> None:
    assert places_in(f"v =\t{value}{after}")["v",] == ("v", value)


@pytest.mark.parametrize("value", ['"""\na"\\\n b"""', "'''\na'\n'''", "[\n1]", "{\na = 1}"])
def test_a_value_over_several_lines_is_marked_on_its_first(value: str) -> None:
    text = f"v = {value}\nw = 1"
    assert places_in(text)["v",] == ("v", value.split("\n", maxsplit=1)[0])
    assert places_in(text)["w",] == ("w", "1")


def test_windows_line_ends_change_no_position() -> None:
    text = "[a]\nb = '''x\ny'''\nc = [1,\n2]\n"
    assert parse(text.replace("\n", "\r\n"), "x") == parse(text, "x")


def test_a_lone_carriage_return_ends_no_line() -> None:
    (fault,) = faults_of("a = 1\r\r\nb = 2")
    assert str(fault.location) == "run.toml:1:5"


def test_columns_count_characters() -> None:
    place = parse('"é𝄞" = 1', "x").places["é𝄞",]
    assert (place.key.width, place.value.column) == (4, 8)


def test_a_line_too_long_to_show_keeps_its_numbers() -> None:
    place = parse(f"a = '{'x' * 2000}'", "x").places["a",]
    assert (place.value.line, place.value.column, place.value.width, place.value.text) == (1, 5, 2002, None)


# Any document, in any spelling: every position points at text that gives the key and the value.

NAMES = st.one_of(st.sampled_from(["a", "b", "lr", "x-1", "3"]), st.text("aé .=#[]{}'\"\\,𝄞", max_size=4))
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abé \t\n'\"\\#,=]}𝄞", max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
DOCUMENTS = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(VALUES, inner), max_size=4),
    max_leaves=8,
)


class Writer:
    """Writes a document as TOML, with each choice of spelling drawn by hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.newline = self.any_of("\n", "\r\n")

    def any_of(self, *choices: str) -> str:
        return self.data.draw(st.sampled_from(choices))

    def key(self, name: str) -> str:
        spellings = [self.basic(name)]
        if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
            spellings.append(name)
        if "'" not in name and name.isprintable():
            spellings.append(f"'{name}'")
        return self.any_of(*spellings)

    def dotted(self, path: Path) -> str:
        return self.any_of(".", " . ", ".\t").join(self.key(name) for name in path)

    def basic(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=self.data.draw(st.booleans()) and text.isascii())

    def string(self, text: str) -> str:
        body = json.dumps(text, ensure_ascii=False)[1:-1]
        spellings = [
            self.basic(text),
            f'"""{body}"""',
            f'"""{self.newline}{body}"""',
            f'"""\\{self.newline}  {body}"""',
        ]
        if text[:1] in {" ", "\t", "\n"}:
            spellings.pop()  # blanks after a backslash at a line's end do not count
        if "'" not in text:
            spellings.append(f"'''{self.newline}{text.replace(chr(10), self.newline)}'''")
            if "\n" not in text:
                spellings.append(f"'{text}'")
        return self.any_of(*spellings)

    def value(self, value: Any) -> str:
        gap = self.any_of("", " ", f"{self.newline}  ", f" # ]}}'{self.newline}")
        if isinstance(value, list):
            return f"[{gap}{f',{gap}'.join(self.value(item) + gap for item in value)}]"
        if isinstance(value, dict):
            pairs = [f"{path} = {self.value(inner)}" for path, inner in self.pairs(value)]
            blank = self.any_of("", " ")
            return f"{{{blank}{f',{blank}'.join(pairs)}{blank}}}"
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) and value >= 0:
            return self.any_of(str(value), hex(value), oct(value), bin(value), f"{value:_}", f"+{value}")
        return repr(value)

    def pairs(self, table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield dotted keys and values; an inner table is spread over dotted keys, or is a value itself."""
        for name, inner in table.items():
            if isinstance(inner, dict) and inner and self.data.draw(st.booleans()):
                yield from ((f"{self.key(name)}.{rest}", value) for rest, value in self.pairs(inner))
            else:
                yield self.key(name), inner

    def table(self, table: dict[str, Any], path: Path = ()) -> str:
        """Return a table's settings and then its inner tables, some under headers."""
        here, below = "", ""
        for name, value in table.items():
            inner = (*path, name)
            if isinstance(value, dict) and self.data.draw(st.booleans()):
                below += f"{self.space()}[{self.dotted(inner)}]{self.end()}{self.table(value, inner)}"
            elif is_array_of_tables(value) and self.data.draw(st.booleans()):
                heads = (f"[[ {self.dotted(inner)} ]]{self.end()}{self.table(item, inner)}" for item in value)
                below += "".join(heads)
            else:
                for key, leaf in self.pairs({name: value}):
                    here += f"{self.space()}{key}{self.space()}={self.space()}{self.value(leaf)}{self.end()}"
        return here + below

    def space(self) -> str:
        return self.any_of("", " ", "\t ")

    def end(self) -> str:
        return self.any_of("", "  ", " # it's [a] = \"b") + self.newline * self.data.draw(st.integers(1, 2))


def is_array_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def check_places(text: str, document: Document) -> None:
    """Check that each path has one position, and that the text there gives the key and the value."""
    firsts: dict[Path, Any] = {}
    for path, value in walk(document.values):
        firsts.setdefault(path, value)
    assert set(document.places) == set(firsts)
    for path, value in firsts.items():
        place = document.places[path]
        keys = tuple(path for path, _ in walk(tomli.loads(f"{marked(text, place.key)} = 0")))[-1]
        assert keys == path[len(path) - len(keys) :]
        if place.value == place.key:
            assert isinstance(value, dict) or is_array_of_tables(value)
        else:
            assert tomli.loads(f"v = {whole_value(text, place.value)}")["v"] == value


def whole_value(text: str, location: Location) -> str:
    """Return the shortest text from ``location`` on that is a value, at least what is marked."""
    shown = marked(text, location)
    assert location.line is not None
    assert location.column is not None
    rest = text.replace("\r\n", "\n").split("\n", maxsplit=location.line - 1)[-1][location.column - 1 :]
    for end in range(len(shown), len(rest) + 1):
        try:
            tomli.loads(f"v = {rest[:end]}")
        except tomli.TOMLDecodeError:
            continue
        tail = rest[end:].lstrip("'\"")  # two more quotes may end a tripled text
        whole = rest[: len(rest) - len(tail)]
        assert shown == whole.split("\n")[0]
        return whole
    pytest.fail(f"no value begins at {location}")


@settings(deadline=None, max_examples=100)
@given(DOCUMENTS, st.data())
def test_every_place_points_at_text_that_gives_its_key_and_value(values: dict[str, Any], data: st.DataObject) -> None:
    text = Writer(data).table(values)
    document = parse(text, "run.toml")
    assert document.values == values == tomli.loads(text)
    check_places(text, document)


TOKENS = ("a", "b", "_", "1", "0", " ", " ", ".", "=", "=", " = 1\n", "\n", "\r\n", "\r", "\t", ",", "#", "\\", "\\n")
BRACKETS = ("[", "]", "[[", "]]", "{", "}", "[a]\n", "[[b]]\n", "a = ", "a.b = ", "{a = 1}", "[1, 2]")
QUOTES = ('"', "'", '"""', "'''", '"a"', "'b'", '"\\u0061"', '"\\u202e"', '"\\n"', "\u202e", "\ud800", "\x00", "é")
WORDS = ("true", "nan", "inf", "1e999", "9" * 20, "2024-01-01", "07:32:00", "1.5", "0xff", "-")
SOUP = st.lists(st.sampled_from(TOKENS + BRACKETS + QUOTES + WORDS), max_size=24).map("".join)
ANY_TEXT = st.one_of(SOUP, st.text(st.characters(exclude_categories=())))


@settings(deadline=None, max_examples=1000)
@given(ANY_TEXT)
def test_any_text_is_read_as_tomli_reads_it_or_is_a_config_error(text: str) -> None:
    result = document_or_error(text)
    if isinstance(result, Document):
        assert result.values == tomli.loads(text)
        check_places(text, result)
    else:
        assert result.exit_code == 2
        assert result.faults
        assert all(fault.location and fault.location.line for fault in result.faults)
        assert str(result).replace("\n", "").isprintable()


# Refusals


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "+inf", "1e999", "-1e400", "1.0e+309"])
def test_a_number_that_is_not_finite_is_refused_at_its_place(number: str) -> None:
    (fault,) = faults_of(f"[a]\nb = [1, {number}]")
    assert fault.message == f"a.b is {number}, but no option takes infinity or NaN"
    assert fault.location == Location("run.toml", 2, 9, f"b = [1, {number}]", len(number))


@pytest.mark.parametrize(
    "number", [str(2**63), str(-(2**63) - 1), hex(2**63), "9" * 5000, "0x" + "f" * 6000, "1" * 10**5]
)
def test_an_integer_beyond_64_bits_is_refused_with_its_key(number: str) -> None:
    (fault,) = faults_of(f"x = 1\nseed = {number}\n")
    assert fault.message == "seed is an integer that does not fit into 64 bits"
    assert fault.location
    assert str(fault.location) == "run.toml:2:8"
    assert fault.location.width == len(number)


def test_integers_of_64_bits_and_large_floats_are_accepted() -> None:
    text = f"a = {2**63 - 1}\nb = {-(2**63)}\nc = 0x7fff_ffff_ffff_ffff\nd = 1.7e308\ne = 0b{'1' * 63}\nf = -0.0"
    values = parse(text, "x").values
    assert list(values.values()) == [2**63 - 1, -(2**63), 2**63 - 1, 1.7e308, 2**63 - 1, 0.0]


@pytest.mark.parametrize("moment", ["2024-01-01", "07:32:00", "2024-01-01 07:32:00", "2024-01-01T07:32:00.5+01:00"])
def test_a_date_or_time_is_refused_with_a_hint_to_quote_it(moment: str) -> None:
    (fault,) = faults_of(f"day = {moment} # note")
    assert fault.message == "day is a date or time, which no option takes"
    assert fault.hint == f'quote it to make it text: "{moment}"'
    assert fault.location
    assert (fault.location.column, fault.location.width) == (7, len(moment))
    assert parse(f'day = "{moment}"', "x").values == {"day": moment}


HIDDEN = ["\x85", "\x9b", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028", "\ud800", "\udcff"]
ESCAPED = ["\\u0000", "\\u001b", "\\u0008", "\\r", "\\u007f", "\\u009b", "\\u202E", "\\u2029"]


@pytest.mark.parametrize("character", HIDDEN + ESCAPED)
def test_a_hidden_character_is_refused_in_text_and_in_a_key(character: str) -> None:
    in_text, in_key = faults_of(f'a = "x{character}"\n"k{character}" = 1')
    assert in_text.message.startswith("a contains U+")
    assert in_key.message.startswith("the key 'k")
    assert "contains U+" in in_key.message
    assert str(in_text).replace("\n", "").isprintable()
    assert [str(fault.location) for fault in (in_text, in_key)] == ["run.toml:1:5", "run.toml:2:1"]


@pytest.mark.parametrize("character", ["\\n", "\\t", "\t"])
def test_newline_and_tab_are_accepted_in_text_but_not_in_a_key(character: str) -> None:
    assert parse(f'a = "{character}"', "x").values["a"] in {"\n", "\t"}
    (fault,) = faults_of(f'["{character}"]')
    assert "contains U+000" in fault.message


def test_text_of_every_script_is_accepted() -> None:
    text = "データ\u3000 🏳️‍🌈 עברית می‌خواهم a\u00a0b\u202fc"
    assert parse(f'"{text}" = "{text}"', "x").values == {text: text}


def test_all_refusals_of_a_document_are_reported_at_once() -> None:
    faults = faults_of('a = nan\nb = [inf, {c = 1979-05-27}]\n"\\r" = 1\n[t]\nd.e = 0xffffffffffffffffff')
    assert [str(fault.location) for fault in faults] == [
        f"run.toml:{at}" for at in ("1:5", "2:6", "2:16", "3:1", "5:7")
    ]
    assert [fault.message.split()[0] for fault in faults] == ["a", "b", "b.c", "the", "t.d.e"]


def test_of_very_many_faults_the_first_are_reported() -> None:
    with pytest.raises(ConfigError, match="the first 50 faults") as caught:
        parse("a = [" + "nan," * 5000 + "]", "x")
    assert len(caught.value.faults) == MAX_FAULTS
    assert len(str(caught.value)) < 10_000


# Syntax errors

SYNTAX_ERRORS = [
    ("lr = adamw # x", "adamw is not a valid value", "1:6", 'write text in quotes: "adamw"'),
    ("a = [x y, z]", "x y is not a valid value", "1:6", 'write text in quotes: "x y"'),
    ("p = C:\\data", "C:\\data is not a valid value", "1:5", "write text in quotes: 'C:\\data'"),
    ("lr = 5,000", "5,000 is not a valid value", "1:6", 'like 5000, 0.5 or 1e-3; write text in quotes: "5,000"'),
    ("x = .5", ".5 is not a valid value", "1:5", "write a number like 5000, 0.5"),
    ("a.x=3layers", "3layers is not a valid value", "1:5", 'write text in quotes: "3layers"'),
    ("x = True", "True is not a valid value", "1:5", "write true"),
    ("x = None", "None is not a valid value", "1:5", "omit the key"),
    ('p = "\\ud800"', "TOML has no such escape", "1:6", "in single quotes, \\ is a plain character"),
    ("x = 1\r", "1\\r is not a valid value", "1:5", "write a number"),
    ("x =  # none", "missing value", "1:6", "write key = value"),
    ("lr 0.1", "missing '=' after the key", "1:4", "key = value"),
    ("a = 1\n\na = 2", "a is set twice", "3:1", "first set at run.toml:1:1"),
    ("[a]\n[b]\n[a]", "a is set twice", "3:2", "first set at run.toml:1:2"),
    ("[f]\nx.y = 1\n[f.x]", "f.x is set twice", "3:2", "first set at run.toml:2:1"),
    ("a = {b = 1, b = 2}", "a.b is set twice", "1:13", "first set at run.toml:1:6"),
    ("a = 1\na.b = [2,\n3]", "a.b cannot be set: a already has a value", "2:1", "first set at run.toml:1:1"),
    ("a = {b = 1}\n[a.c]", "a.c cannot be set: a already has a value", "2:2", "first set at run.toml:1:1"),
    ('"a b" = 1\n"a b" = 2', "'a b' is set twice", "2:1", "first set at run.toml:1:1"),
    ('p = "C:\\users"', "TOML has no such escape", "1:8", "in single quotes, \\ is a plain character"),
    ('p = "C:\\data"', "TOML has no such escape", "1:8", "in single quotes, \\ is a plain character"),
    ('p = "abc\nq = 1', "this string is not closed", "1:5", "close it with the same quotes"),
    ("p = 'abc\n\n", "this string is not closed", "1:5", "close it with the same quotes"),
    ('p = """abc\n\n', "this string is not closed", "1:5", "close it with the same quotes"),
    ("p = '''abc\n\n", "this string is not closed", "1:5", "close it with the same quotes"),
    ('"abc', "this string is not closed", "1:1", "close it with the same quotes"),
    ("x = [1, 2\ny = 3", "missing ',' or ']' in this array", "2:1", "[1, 2, 3]"),
    ("x = {a = 1", "missing ',' or '}' in this inline table", "1:11", "{a = 1, b = 2}"),
    ("[data\n", "this header is not closed", "1:6", "[table]"),
    ("x = 1 y = 2", "unexpected text after a value or a header", "1:7", "on a separate line"),
    ("= 1", "invalid line", "1:1", "key = value, [table], or # comment"),
    ("a. = 1", "invalid key", "1:4", "quote a key"),
    ('x = "\x1b"', "this character is not allowed here", "1:6", "remove it"),
    ("# \x00", "this character is not allowed here", "1:3", "remove it"),
]


@pytest.mark.parametrize(("text", "message", "place", "hint"), SYNTAX_ERRORS)
def test_a_syntax_error_says_what_where_and_what_to_do(text: str, message: str, place: str, hint: str) -> None:
    (fault,) = faults_of(text)
    assert fault.message.startswith(message)
    assert str(fault.location) == f"run.toml:{place}"
    assert fault.location
    assert fault.location.text == text.split("\n")[int(place[0]) - 1]
    assert hint in (fault.hint or "")


def test_the_error_names_its_source_with_escapes() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("a", "a\x1b")
    assert caught.value.message == "a\\x1b is not a valid config"


# Limits

TOO_DEEP = {
    "arrays": "x = " + "[" * 5000 + "]" * 5000,
    "tables": "x = " + "{a = " * 5000 + "1" + "}" * 5000,
    "key": "x" + ".a" * 20_000 + " = 1",
    "header": "[x" + ".a" * 20_000 + "]",
    "key under header": f"[{'.'.join('a' * MAX_DEPTH)}]\nx = 1",
}


@pytest.mark.parametrize("text", TOO_DEEP.values(), ids=TOO_DEEP)
def test_deep_nesting_is_refused_with_its_line(text: str) -> None:
    (fault,) = faults_of("a = 1\n" + text)
    assert fault.message == "this is nested more than 32 levels deep"
    assert fault.location
    assert fault.location.line == 2 + text.count("\n")


def test_nesting_up_to_the_limit_is_accepted() -> None:
    key = ".".join("a" * MAX_DEPTH)
    assert len(parse(f"{key} = {'[' * MAX_DEPTH}{']' * MAX_DEPTH}", "x").places) == MAX_DEPTH


@pytest.mark.parametrize(
    "text", ["a = [" + "1," * 10**5 + "]", "[[a]]\n" * 10**5, "".join(f"{i} = 1\n" for i in range(10**5))]
)
def test_very_many_keys_and_values_are_refused(text: str) -> None:
    (fault,) = faults_of(text)
    assert fault.message == "there are more than 20,000 keys and values"


def test_keys_and_values_up_to_the_limit_are_accepted() -> None:
    text = "\n".join(f"{i} = 1" for i in range(10_000))
    assert len(parse(text, "x").places) == 10_000
    (fault,) = faults_of(text + "\nx = 1")
    assert fault.location
    assert str(fault.location) == "run.toml:10001:1"


def padded(unit: str) -> str:
    return unit * (MAX_BYTES // len(unit))


SLOW_TEXTS = {
    "headers": padded("["),
    "arrays": "a = " + padded("["),
    "key": padded("a."),
    "keys under a deep header": f"[{'.'.join('a' * 31)}]\n" + "\n".join(f"{i} = 1" for i in range(MAX_ITEMS // 2 - 20)),
    "deep keys": "\n".join(f"x{i}{'.a' * 31} = 1" for i in range(MAX_ITEMS // 33)),
    "escapes": f'a = "{padded(chr(92) + "n")}"',
    "numbers to check": f"a = [{'1e3, ' * (MAX_ITEMS - 20)}]",
    "quotes": padded('"'),
    "open text": f'a = """{padded(chr(34) * 2 + "a")}',
    "open texts": padded("a = '\n"),
    "digits": "a = " + padded("1"),
    "fraction": "a = 0." + padded("1"),
    "lines": padded("\n"),
    "comments": padded("#\n"),
    "blanks": f"a = 1{padded(' ')}b",
    "word": f"b = '{padded('x')}'\na = 5,0",
    "words": "a = " + padded("x "),
    "one long line": "a = [" + "nan," * 10_000 + padded(" ") + "]",
}


@pytest.mark.parametrize("text", SLOW_TEXTS.values(), ids=SLOW_TEXTS)
def test_no_text_of_a_mebibyte_takes_long(text: str) -> None:
    start = time.perf_counter()
    result = document_or_error(text)
    # Each takes less than a second; quadratic time would be minutes.
    assert time.perf_counter() - start < HANG_S
    assert isinstance(result, Document) or len(str(result)) < 10_000


# One value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("true", True),
        ("1_000", 1000),
        (" 5 ", 5),
        ('"a b"', "a b"),
        ("'1'", "1"),
        ('"""a"""', "a"),
        ('"\\n"', "\n"),
        ("[1, 'x']", [1, "x"]),
        ("{a = 1, b.c = 2}", {"a": 1, "b": {"c": 2}}),
    ],
)
def test_a_value_is_read_as_toml(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("adamw", "off", "my/file.csv", "../x", "", " ", " x ", "é", "x\ty", "it's", "C:\\x", "True", "None", "a = 1"),
        *("5,000", "1.2.3", "2024-01-01", "07:32", "2024-02-30", "2024-01-01 # x", "1 # c", "#", "1]", "5, 6", "-"),
    ],
)
def test_a_bare_word_is_text(text: str) -> None:
    assert parse_value(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2", "missing ',' or ']' in this array"),
        (" [1", "missing ',' or ']' in this array"),
        ("{a = 1", "missing ',' or '}' in this inline table"),
        ("[adam]", "adam is not a valid value: expected a number, true, false or text in quotes"),
        ('"x', "this string is not closed"),
        ("'a'b", "unexpected text after a value or a header"),
        ('"a" # c', "a comment is not allowed here"),
        ("[1] #", "a comment is not allowed here"),
        ("{a = 1, a = 2}", "value.a is set twice"),
        ("1\n", "a value must be on one line"),
        ("1 # c\nb = 2", "a value must be on one line"),
        ("[1,\n2]", "a value must be on one line"),
        ("nan", "value is nan, but no option takes infinity or NaN"),
        ("1e999", "value is 1e999, but no option takes infinity or NaN"),
        ("[inf, {a = nan}]", "value is inf, but .* NaN; value.a is nan, but .* NaN"),
        (str(2**63), "value is an integer that does not fit into 64 bits"),
        ("9" * 5000, "value is an integer that does not fit into 64 bits"),
        ("0x" + "f" * 6000, "value is an integer that does not fit into 64 bits"),
        ("[2024-01-01]", "value is a date or time, which no option takes"),
        ("a\x1b[31m", r"value contains U\+001B"),
        ('"\\u202e"', r"value contains U\+202E"),
        ("a\r", r"value contains U\+000D"),
        ("a\udcff", r"value contains U\+DCFF"),
        ("[" * 5000, "this is nested more than 32 levels deep"),
        ("[" + "1," * 10**5 + "]", "there are more than 20,000 keys and values"),
    ],
)
def test_an_invalid_value_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}") as caught:
        parse_value(text)
    assert type(caught.value) is ValueError
    assert str(caught.value).isprintable()


@settings(deadline=None, max_examples=1000)
@given(ANY_TEXT)
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    result = value_or_error(text)
    if isinstance(result, ValueError):
        assert type(result) is ValueError
        assert str(result).isprintable()
    else:
        assert result == text or tomli.loads(f"v = {text}") == {"v": result}
