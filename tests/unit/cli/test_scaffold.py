"""Files of a new distribution of every kind, and names that are rejected."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable

import pytest

from hookline import Catalog
from hookline.cli.scaffold.scaffold import Scaffold, compatible_versions
from hookline.config import KINDS, Entry

NAME = "deep-net"
Catalogs = Callable[..., Catalog]


def made(kind: str, name: str = NAME) -> dict[str, str]:
    return Scaffold(kind, name).files("0.1.0")


def names_in(code: str) -> tuple[set[str], set[str]]:
    """Return the names that a module imports and the names that it defines."""
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    return imported, {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


# ---- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_code_tests_settings_and_ci(kind: str) -> None:
    expected = {
        ".github/workflows/ci.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/hookline_deep_net/__init__.py",
        "src/hookline_deep_net/py.typed",
        "tests/test_plugin.py",
    }
    assert expected <= set(made(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_project_declares_the_class_that_the_module_has(kind: str) -> None:
    files = made(kind)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "hookline-deep-net"
    assert project["dependencies"] == ["hookline>=0.1,<0.2"]
    [(group, points)] = project["entry-points"].items()
    assert group == f"hookline.{kind}"
    module, _, class_name = points[NAME].partition(":")
    _, defined = names_in(files[f"src/{module}/__init__.py"])
    assert class_name in defined


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_complete_and_neat(kind: str) -> None:
    for path, text in made(kind).items():
        # A remaining $ belongs to GitHub.
        assert "$" not in text.replace("${{ matrix.python }}", ""), path
        assert "MODULE" not in path
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_name_fits_the_line_length_that_the_project_sets(kind: str) -> None:
    for path, text in made(kind, "a-name-of-thirty-characters-ab").items():
        if path.endswith(".py"):
            assert max(map(len, text.splitlines())) <= 120, path


@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_hold_the_plugin_to_the_contract_of_its_kind(kind: str) -> None:
    text = made(kind)["tests/test_plugin.py"]
    assert f'@conformance("{kind}", {Scaffold(kind, NAME).class_name})' in text


@pytest.mark.parametrize("kind", KINDS)
def test_no_plugin_takes_the_name_of_a_class_that_it_uses(kind: str) -> None:
    code = "\n".join(text for path, text in made(kind).items() if path.endswith(".py"))
    imported, defined = names_in(code.replace("from __future__ import annotations", ""))
    own = Scaffold(kind, NAME).class_name
    # The class of the plugin ends with its kind, after other words, so no other class may.
    assert [name for name in imported | defined if name.removesuffix(kind.capitalize()) not in (name, "")] == [own]


def test_a_name_that_ends_in_its_kind_does_not_repeat_it() -> None:
    assert Scaffold("model", "deep-model").class_name == "DeepModel"


def test_the_override_of_a_callback_names_its_table() -> None:
    assert Scaffold("callback", "best").use == "callbacks.best=best"
    assert Scaffold("data", "best").use == "data=best"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.1.0", ">=0.1,<0.2"),
        ("0.12.3", ">=0.12,<0.13"),
        ("1.0.0", ">=1.0,<2"),
        ("3.2", ">=3.2,<4"),
        ("0.2.0rc1", ">=0.2.0rc1,<0.3"),
        ("0.2.0.dev4+g1a2b", ">=0.2.0.dev4,<0.3"),
    ],
)
def test_the_range_ends_before_the_release_that_may_break_plugins(version: str, expected: str) -> None:
    assert compatible_versions(version) == expected


# ---- the names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "net", "deep-net", "x2", "resnet-18", "class", "none"])
def test_a_name_of_lower_case_letters_digits_and_hyphens_is_taken(name: str, catalog_with: Catalogs) -> None:
    scaffold = Scaffold("model", name)
    assert scaffold.faults(catalog_with()) == []
    assert f"src/{scaffold.module}/__init__.py" in scaffold.files("0.1.0")
    assert scaffold.module.isidentifier()
    ast.parse(scaffold.files("0.1.0")["tests/test_plugin.py"])


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MyNet", "for example 'my-net'"),
        ("my_net", "for example 'my-net'"),
        ("my net!", "for example 'my-net'"),
        ("-net", "for example 'net'"),
        ("net-", "for example 'net'"),
        ("a--b", "for example 'a-b'"),
        ("3d", "for example 'model-3d'"),
        ("größe", "for example 'groe'"),
        ("../net", "for example 'net'"),
        ("net\n", "for example 'net'"),
        ("", None),
        ("网", None),
    ],
)
def test_another_name_is_a_fault_that_suggests_one(name: str, suggestion: str | None, catalog_with: Catalogs) -> None:
    [fault] = Scaffold("model", name).faults(catalog_with())
    assert f"{name!r} is not a valid plugin name: expected lowercase letters" in fault.message
    assert fault.hint == suggestion


@pytest.mark.parametrize("name", ["true", "false", "inf", "nan", "off"])
def test_a_name_that_an_override_would_read_as_a_value_is_a_fault(name: str, catalog_with: Catalogs) -> None:
    [fault] = Scaffold("callback", name).faults(catalog_with())
    assert f"'callbacks.{name}={name}' would be read as a value" in fault.message
    assert fault.hint == f"for example '{name}-callback'"


def test_the_name_of_an_installed_plugin_of_the_kind_is_a_fault_with_both_full_names(catalog_with: Catalogs) -> None:
    catalog = catalog_with(Entry("model", "deep-net", "acme_plugins:Net", "acme-plugins", "1.2.0"))
    [fault] = Scaffold("model", "deep-net").faults(catalog)
    for words in ["acme-plugins 1.2.0", "'acme-plugins/deep-net'", "'hookline-deep-net/deep-net'"]:
        assert words in fault.message
    assert Scaffold("loss", "deep-net").faults(catalog) == []


def test_the_name_of_an_installed_distribution_is_a_fault_whatever_its_kind(catalog_with: Catalogs) -> None:
    catalog = catalog_with(Entry("loss", "deep-net", "deep:Loss", "Hookline_Deep.Net", "1.0.0"))
    [fault] = Scaffold("model", "deep-net").faults(catalog)
    assert "Hookline_Deep.Net 1.0.0" in fault.message


def test_the_package_of_the_default_plugins_is_taken(catalog_with: Catalogs) -> None:
    [fault] = Scaffold("model", "plugins").faults(catalog_with())
    assert "hookline 0.1.0" in fault.message
