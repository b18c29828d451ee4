"""The checks for plugins of every kind: docstring, hooks, options, import."""

from __future__ import annotations

import dis
import functools
import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import CodeType
from typing import Any

import tomli

from hookline.config.plugins.options import is_plain, plain
from hookline.engine.view import RunView
from hookline.testing.kit import Broken, Subject, check, skip

IMPORT_LIMIT_S = 5.0
"""Limit on the import time of a plugin's module, without torch: far more than a plugin needs, so that a busy machine
stays below it."""

_PROBE_TIMEOUT_S = 120


@check
def says_what_it_is(subject: Subject) -> None:
    """The plugin has a docstring whose first line describes it."""
    target = subject.plugin.target
    text = (target.__doc__ or "").strip()
    # The docstring of a dataclass defaults to its signature.
    if len(text.split()) < 3 or text.startswith(f"{target.__name__}("):
        raise Broken("it has no docstring of three words or more", "describe the plugin in the docstring's first line")


@check
def can_be_made(subject: Subject) -> None:
    """The plugin matches the hook specification, and a run can be built with it and the given options."""
    if subject.refusals:
        advice = "fix the plugin, or give the options and data= that it needs"
        raise Broken("no run can be built: " + "\n".join(subject.refusals), advice)


@check
def options_described(subject: Subject) -> None:
    """Every option has a description and a type that a config can express."""
    options = subject.plugin.options
    bare = [option.name for option in options if not option.description]
    untyped = [option.name for option in options if option.type is Any or option.expected == "any value"]
    seen = [f"no description: {', '.join(bare)}"] if bare else []
    seen += [f"no type: {', '.join(untyped)}"] if untyped else []
    if seen:
        raise Broken("; ".join(seen), "annotate each option: Annotated[int, msgspec.Meta(description='...')]")


@check
def defaults_fit(subject: Subject) -> None:
    """Every default has the type of its option, and a config can hold it."""
    wrong = []
    for option in subject.plugin.options:
        if option.is_required:
            continue
        try:
            value = option.convert(plain(option.default), Path())
        except ValueError as error:
            wrong.append(f"{option.name}: {error}")
            continue
        if value != option.default:
            wrong.append(f"{option.name}: the default {option.default!r} is read back as {value!r}")
    if wrong:
        raise Broken("; ".join(wrong), "change the default, or widen the type")


@check
def options_have_schemas(subject: Subject) -> None:
    """Every option has a valid JSON Schema (draft-07) that accepts its default and the given value."""
    try:
        import jsonschema
    except ImportError:
        skip("jsonschema is not installed: pip install 'hookline[testing]'")
    wrong = []
    for option in subject.plugin.options:
        schema = option.schema()
        try:
            jsonschema.Draft7Validator.check_schema(schema)
            for value in _values_of(option.name, schema, subject):
                jsonschema.Draft7Validator(schema).validate(value)
        except (jsonschema.SchemaError, jsonschema.ValidationError) as error:
            wrong.append(f"{option.name}: {error.message}")
    if wrong:
        raise Broken("; ".join(wrong), "use types and bounds that fit the values")


def _values_of(name: str, schema: Mapping[str, Any], subject: Subject) -> list[Any]:
    given = [plain(subject.options[name])] if name in subject.options else []
    return [*([schema["default"]] if "default" in schema else []), *given]


@check
def options_survive(subject: Subject) -> None:
    """Option values are unchanged after a round trip through JSON, TOML, and another process."""
    typed = subject.typed_options()
    lost = []
    for option in subject.plugin.options:
        value = typed[option.name]
        if not is_plain(value):
            continue  # None and objects are not written; reading restores their defaults
        for form, written in _written(option.name, value).items():
            try:
                again = option.convert(written, Path())
            except ValueError as error:
                lost.append(f"{option.name} from {form}: {error}")
                continue
            if again != value:
                lost.append(f"{option.name} from {form}: {again!r} instead of {value!r}")
    if lost:
        raise Broken("; ".join(lost), "use types that text can hold: numbers, text, lists, and tables with text keys")


def _written(name: str, value: Any) -> Mapping[str, Any]:
    """Return an option's value after a round trip through each format."""
    return {
        "JSON": json.loads(json.dumps(plain(value))),
        "TOML": tomli.loads(f"value = {_toml(plain(value))}")["value"],
        # As multiprocessing sends values.
        "another process": ForkingPickler.loads(ForkingPickler.dumps((name, plain(value))))[1],
    }


def _toml(value: Any) -> str:
    """Return a plain value as TOML on one line.

    >>> _toml({"a": [1, float("inf")], "b": True})
    '{"a" = [1, inf], "b" = true}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return str(value)  # JSON spells infinity and NaN differently
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML, unlike JSON, escapes DEL


@check
def uses_the_view_alone(subject: Subject) -> None:
    """The plugin uses only those attributes of ``run`` that ``RunView`` has."""
    target = subject.plugin.target
    bases = target.__mro__ if inspect.isclass(target) else type(target).__mro__
    members = [member for base in bases for member in vars(base).values()] + [target]
    codes = [code for member in members if (code := getattr(member, "__code__", None)) is not None]
    offered = {*dir(RunView), *RunView.__annotations__}
    if more := sorted({name for code in codes for name in _attributes_of_run(code)} - offered):
        found = ", ".join(f"run.{name}" for name in more)
        raise Broken(f"it uses {found}", "use what RunView offers; share objects between plugins by run.shared")


def _attributes_of_run(code: CodeType) -> Iterator[str]:
    """Yield the attributes of a variable ``run`` that a function uses, functions within it included."""
    for first, second in itertools.pairwise(dis.get_instructions(code)):
        if first.argval == "run" and second.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR"):
            yield second.argval
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _attributes_of_run(constant)


@check
def import_without_effect(subject: Subject) -> str:
    """Importing the plugin's module prints nothing, changes no process-wide state, and is fast."""
    module = subject.plugin.target.__module__
    found = _import_effects(module, str(subject.folder))
    if found is None:
        skip(f"its module {module!r} cannot be imported by name in another process")
    if found["effects"]:
        raise Broken(f"{module}: " + "; ".join(found["effects"]), "do it in a hook, and undo it in on_run_end")
    note = f"{module} takes {found['seconds']:.2f} s to import, without torch"
    if found["seconds"] > IMPORT_LIMIT_S:
        raise Broken(f"{note}, more than {IMPORT_LIMIT_S:.0f} s", "import large libraries inside the hooks")
    return note


# Plugins of the same module share its result, because starting a process is slow.
@functools.cache
def _import_effects(module: str, folder: str) -> Mapping[str, Any] | None:
    """Return the effects of importing a module in a new process; None if it is not found there."""
    loaded: list[str] = []
    while wanted := (found := _probed(module, folder, *loaded))["wanted"]:
        loaded.append(wanted)
    return found if found["found"] else None


def _probed(module: str, folder: str, *loaded: str) -> Mapping[str, Any]:
    command = [sys.executable, "-P", "-m", "hookline.testing.import_probe", module, *loaded]
    done = subprocess.run(  # noqa: S603 - the module is already imported here
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_PROBE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Broken(f"importing {module} fails in a new process: {last[0]}", "make it importable on its own")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found
