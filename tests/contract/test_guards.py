"""Guards: every public thing is tested, documented and in its place."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import hookline as door
from hookline import Catalog
from hookline.cli.commands.main import hookline as command
from hookline.cli.lazy_group import LazyGroup
from hookline.config import KINDS, Entry, PluginRules
from hookline.config.plugins.options import options_of
from hookline.config.plugins.plugin import load_plugin
from hookline.engine import errors
from hookline.engine.plugin.hook_names import HOOKS
from hookline.engine.train_options import TrainOptions
from support import ROOT

CORE = ROOT / "core" / "hookline"
REFERENCE = ROOT / "docs" / "reference"
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")) if path != Path(__file__))
OWN = [entry for entry in Catalog.installed().entries if entry.distribution == "hookline"]
ERRORS = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.HooklineError)]


DESCRIBED = re.compile(r"^\.\. auto\w+:: (\S+)$", re.MULTILINE)
"""A line that becomes the signature and the docstring of a name; a name that is none fails the build of the site."""


def reference(name: str) -> str:
    return (REFERENCE / name).read_text()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_signature_and_tested(hook: str) -> None:
    section = reference("hooks.md").partition(f"\n### `{hook}({', '.join(HOOKS[hook])})`\n")[2].partition("\n### ")[0]
    assert DESCRIBED.findall(section) == [f"hookline.engine.hookspecs.{hook}"]
    examples = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert any(f"def {hook}(" in example for example in examples), "it has no example"
    assert hook in TESTS


DOORS = [door, *(getattr(door, name) for name in door._ROOMS)]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in DOORS
    for name in module.__all__
    if callable(getattr(module, name))
}


def functions_of(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield a function, or the methods of a class that a program calls; nothing for a protocol, which it writes."""
    if inspect.isfunction(thing):
        yield name, thing
    if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
        for method, member in vars(thing).items():
            if not method.startswith("_"):
                yield f"{name}.{method}", getattr(member, "__func__", member)


@pytest.mark.parametrize("name", PUBLIC)
def test_whatever_takes_a_path_takes_text_and_any_path_like_object(name: str) -> None:
    for function, member in functions_of(name, PUBLIC[name]):
        annotations = getattr(member, "__annotations__", {})
        wrong = [key for key, kind in annotations.items() if key != "return" and re.search(r"\bPath\b", str(kind))]
        assert not wrong, f"{function} takes {wrong} as a Path alone"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_documented_drawn_exported_and_tested(error: type[errors.HooklineError]) -> None:
    assert error.__name__ in door.__all__
    assert re.search(rf"`{error.__name__}`.*\b{error.exit_code}\b", reference("errors.md"))
    assert f"hookline.{error.__name__}" in DESCRIBED.findall(reference("errors.md"))
    assert re.search(rf"{error.__name__} +{error.exit_code} ", errors.__doc__ or "")
    assert error.__name__ in TESTS


def commands_of(group: click.Group, path: str = "") -> dict[str, click.Command]:
    """Return every command by its words, including those of nested groups."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        one = group.get_command(context, name)
        assert one is not None
        found[f"{path}{name}"] = one
        if isinstance(one, click.Group):
            found |= commands_of(one, f"{path}{name} ")
    return found


COMMANDS = commands_of(command)


def test_the_listed_summary_of_a_lazy_command_is_its_own() -> None:
    assert isinstance(command, LazyGroup)
    for name, lazy in command.lazy.items():
        assert lazy.summary == COMMANDS[name].get_short_help_str(1000)


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_and_each_of_its_options_is_documented_and_tested(words: str) -> None:
    text = reference("commands.md")
    assert f"hookline {words}" in text
    for parameter in COMMANDS[words].params:
        if isinstance(parameter, click.Option):
            assert all(f"`{flag}`" in text for flag in parameter.opts if flag.startswith("--")), parameter.opts
            assert any(f'"{flag}"' in TESTS for flag in parameter.opts), parameter.opts
    assert all(f'"{name}"' in TESTS for name in words.split())


def test_the_commands_that_choose_plugins_are_those_that_the_page_lists() -> None:
    section = reference("commands.md").partition("\n## Options that choose plugins\n")[2]
    listed = [words.split()[0] for words in re.findall(r"`([\w -]+)`", section.partition(" have these options")[0])]
    having = {words for words, one in COMMANDS.items() if any("--plugin" in each.opts for each in one.params)}
    assert sorted(listed) == sorted({words.split()[0] for words in having})


def test_every_option_of_the_loop_is_documented_and_tested() -> None:
    for option in options_of(TrainOptions):
        assert f"`{option.name}`" in reference("config.md"), option.name
        assert re.search(rf"\b{option.name}\b", TESTS), option.name


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_plugin_and_each_of_its_options_is_documented(entry: Entry) -> None:
    text = reference("config.md")
    section = text.partition(f"### {entry.kind} `{entry.name}`")[2].partition("\n### ")[0]
    assert section, "it has no section"
    for option in load_plugin(entry).options:
        assert f"`{option.name}`" in section, option.name


DOORS = [importlib.import_module(name) for name in ("hookline", *(f"hookline.{room}" for room in door._ROOMS))]


@pytest.mark.parametrize("package", DOORS, ids=lambda package: package.__name__)
def test_each_door_offers_the_names_that_it_lists(package: ModuleType) -> None:
    assert set(dir(package)) == {*package.__all__, *getattr(package, "_ROOMS", ())}
    described = [name for page in sorted(REFERENCE.glob("*.md")) for name in DESCRIBED.findall(page.read_text())]
    of_package = [name for name in described if name.rpartition(".")[0] == package.__name__]
    assert sorted(of_package) == sorted(f"{package.__name__}.{name}" for name in package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = package.trian


CLASSES = [
    pytest.param(getattr(package, name), id=f"{package.__name__}.{name}")
    for package in DOORS
    for name in package.__all__
    if inspect.isclass(getattr(package, name))
]


@pytest.mark.parametrize("public", CLASSES)
def test_a_public_class_describes_each_of_its_members(public: type) -> None:
    # What the site shows of it: a member without a docstring is left out there.
    for name, member in vars(public).items():
        function = getattr(member, "__func__", member)  # of a class or a static method
        if not name.startswith("_") and (inspect.isroutine(function) or isinstance(member, property | cached_property)):
            assert inspect.getdoc(member), name
    if public not in (TrainOptions, PluginRules):  # each option of theirs has a row on the page of the config
        own_text = re.compile(r'^    (\w+): [^\n]*\n    """', re.MULTILINE).findall(inspect.getsource(public))
        for name in public.__annotations__.keys() - {"exit_code", *own_text}:
            assert re.search(rf"^ +{name}: ", public.__doc__ or "", re.MULTILINE), name


@pytest.mark.parametrize("package", DOORS, ids=lambda package: package.__name__)
def test_the_types_that_checkers_see_are_those_that_programs_get(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {a.name for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported == {*package.__all__, *getattr(package, "_ROOMS", ())}


def test_the_public_door_is_small() -> None:
    assert len(door.__all__) <= 29
    assert isinstance(door.runs.RunFolder, type)  # a room is loaded on first use


def strings(path: Path) -> list[str]:
    return [
        n.value
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_no_plugin(path: Path) -> None:
    # Whole strings: prose and examples may mention "sgd", but code may not look it up.
    # "best" is also a name for a run, "checkpoint" a module, and "metrics" a key of a record.
    own_words = {"hookline", "json", "best", "checkpoint", "metrics", *KINDS}
    names = {entry.name for entry in OWN} - own_words
    assert not names & set(strings(path))
    assert not [text for text in strings(path) if text.startswith("hookline_plugins")]


FORBIDDEN = {
    "print(": "the core is silent",
    "torch.load": "no pickle is ever loaded",
    "pickle": "no pickle is ever loaded",
    "os.environ": "the core reads no environment",
    "signal.signal": "the core installs no handler",
    "logging.": "the core sets up no logging",
    "global ": "the core has no globals",
    "manual_seed_all": "the core seeds nothing global",
    "torch.manual_seed": "the core seeds nothing global",
    "eval(": "no text chooses code",
    "exec(": "no text chooses code",
}


ALLOWED = {
    # The command line is a program, not a library.
    "cli/signals.py": ("signal.signal",),
    "cli/arguments.py": ("os.environ",),  # of its own process, before torch is imported
    "cli/ranks.py": ("os.environ",),  # torchrun gives each process its number there
    # The parent of the ranks of a command trains nothing: it starts them, and passes signals on.
    "ranks/launching.py": ("os.environ", "signal.signal"),
    "testing/checks_parallel.py": ("os.environ",),  # of its forks
}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_is_silent_and_keeps_its_hands_off(path: Path) -> None:
    code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
    code = re.sub(r'""".*?"""', "", code, flags=re.DOTALL)
    found = {word: why for word, why in FORBIDDEN.items() if re.search(rf"(?<![\w.]){re.escape(word)}", code)}
    assert found.keys() == set(ALLOWED.get(path.relative_to(CORE).as_posix(), ()))


def test_the_page_of_the_architecture_lists_each_module_once() -> None:
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    paths = [path.relative_to(CORE).with_suffix("") for path in CORE.rglob("*.py") if path.name != "__init__.py"]
    modules = [".".join(path.parts) for path in paths]
    assert sorted(rows) == sorted(modules)
    # The prose, too, names only modules that exist; a room is named by its package.
    named = set(re.findall(r"`((?:cli|config|engine|ranks|runs|shortcuts|testing|trained|trials)\.[\w.]+)`", page))
    assert named <= {*modules, *(name.rpartition(".")[0] for name in modules)}


def test_the_top_level_holds_the_agreed_entries() -> None:
    expected = {"pyproject.toml", "README.md", "LICENSE", "core", "plugins", "tests", "docs"}
    made = {"dist", "build", "runs"}  # made by builds and by the README's first command; ignored by git
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - made == expected
    assert not list(ROOT.glob("core/__init__.py")) + list(ROOT.glob("plugins/__init__.py"))


def test_the_wheel_holds_two_packages_and_their_marks(tmp_path: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hookline", "hookline_plugins"}
    assert {"hookline/py.typed", "hookline_plugins/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_readme_is_short_and_has_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert 100 <= len(lines) <= 150
    assert len([line for line in lines if line.startswith("python3 -m venv ")]) == 2
