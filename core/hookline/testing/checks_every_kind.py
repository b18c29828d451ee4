"""The checks for plugins of all kinds: what they are, their options, their import."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import tomli

from hookline.engine.plugin.options import is_plain, plain
from hookline.runs.config_text import to_toml
from hookline.testing.kit import Broken, Subject, check, skip

IMPORT_LIMIT_S = 5.0
"""The most that the import of a plugin's module may take beyond torch's own: far more than a plugin needs, so that it
holds on a busy machine."""

_PROBE_TIMEOUT_S = 120


@check
def says_what_it_is(subject: Subject) -> None:
    """The plugin's docstring says what it is."""
    target = subject.plugin.target
    text = (target.__doc__ or "").strip()
    # A dataclass without a docstring is given its signature for one.
    if len(text.split()) < 3 or text.startswith(f"{target.__name__}("):
        raise Broken("it has no docstring of three words or more", "say in the first line what the plugin is or does")


@check
def can_be_made(subject: Subject) -> None:
    """The plugin keeps to the hooks, and a run can be built with it and its options."""
    if subject.refusals:
        advice = "mend the plugin, or give the options and the data= that it needs"
        raise Broken("no run can be built: " + "; ".join(subject.refusals), advice)


@check
def options_described(subject: Subject) -> None:
    """Every option has a description, and a type that a config can express."""
    options = subject.plugin.options
    bare = [option.name for option in options if not option.description]
    untyped = [option.name for option in options if option.type is Any or option.expected == "any value"]
    seen = [f"no description: {', '.join(bare)}"] if bare else []
    seen += [f"no type: {', '.join(untyped)}"] if untyped else []
    if seen:
        raise Broken("; ".join(seen), "annotate each: Annotated[int, msgspec.Meta(description='...')]")


@check
def defaults_fit(subject: Subject) -> None:
    """Every default is a value of its option's own type, and one that a config can hold."""
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
            wrong.append(f"{option.name}: the default {option.default!r} is read again as {value!r}")
    if wrong:
        raise Broken("; ".join(wrong), "change the default, or widen the type")


@check
def options_have_schemas(subject: Subject) -> None:
    """Every option has a JSON Schema (draft-07), which its default and the value given keep to."""
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
        raise Broken("; ".join(wrong), "use types and bounds that agree with the values")


def _values_of(name: str, schema: Mapping[str, Any], subject: Subject) -> list[Any]:
    given = [plain(subject.options[name])] if name in subject.options else []
    return [*([schema["default"]] if "default" in schema else []), *given]


@check
def options_survive(subject: Subject) -> None:
    """The options are the same when they come back from JSON, from TOML, and from another process."""
    typed = subject.typed_options()
    lost = []
    for option in subject.plugin.options:
        value = typed[option.name]
        if not is_plain(value):
            continue  # None and objects stay out of what is written, and their defaults stand in again
        for form, written in _written(option.name, value).items():
            try:
                again = option.convert(written, Path())
            except ValueError as error:
                lost.append(f"{option.name} from {form}: {error}")
                continue
            if again != value:
                lost.append(f"{option.name} from {form}: {again!r} instead of {value!r}")
    if lost:
        raise Broken("; ".join(lost), "use types that text can hold: numbers, text, lists, and tables keyed by text")


def _written(name: str, value: Any) -> Mapping[str, Any]:
    """Return an option's value as it comes back from each form that a config is written in."""
    return {
        "JSON": json.loads(json.dumps(plain(value))),
        "TOML": tomli.loads(f"value = {to_toml(value)}")["value"],
        # What multiprocessing itself does with what it sends.
        "another process": ForkingPickler.loads(ForkingPickler.dumps((name, plain(value))))[1],
    }


@check
def import_without_effect(subject: Subject) -> str:
    """Importing the plugin's module changes nothing in the process, prints nothing, and is fast."""
    module = subject.plugin.target.__module__
    found = _import_effects(module, str(subject.folder))
    if found is None:
        skip(f"its module {module!r} cannot be imported by name in another process")
    if found["effects"]:
        raise Broken(f"{module}: " + "; ".join(found["effects"]), "do it in a hook, and undo it in on_run_end")
    told = f"{module} takes {found['seconds']:.2f} s beyond torch"
    if found["seconds"] > IMPORT_LIMIT_S:
        raise Broken(f"{told}, more than {IMPORT_LIMIT_S:.0f} s", "import what is large inside the hooks")
    return told


# Several plugins of a module share what its import does, and a process takes its time.
@functools.cache
def _import_effects(module: str, folder: str) -> Mapping[str, Any] | None:
    """Return what importing a module does in a process of its own; None when it is not found there."""
    loaded: list[str] = []
    while wanted := (found := _probed(module, folder, *loaded))["wanted"]:
        loaded.append(wanted)
    return found if found["found"] else None


def _probed(module: str, folder: str, *loaded: str) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "hookline.testing.import_probe", module, *loaded]
    done = subprocess.run(  # noqa: S603 - the module is the one that was imported here
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
        raise Broken(f"the import of {module} fails in a process of its own: {last[0]}", "make it importable by itself")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found
