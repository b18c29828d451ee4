"""Tests of requirements between distributions."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hookline import PluginError
from hookline.config import Entry
from hookline.config.plugins.plugin import load_plugin
from hookline.config.plugins.requirements import unmet

ACME = Entry("model", "net", "acme_with_effect:Net", "acme-net", "1.0")


def install(folder: Path, *requires: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a distribution on the path: its metadata, and a module that writes a file when it is imported."""
    info = folder / "acme_net-1.0.dist-info"
    info.mkdir()
    lines = [f"Requires-Dist: {text}\n" for text in requires]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-net\nVersion: 1.0\n" + "".join(lines))
    marker = folder / "imported"
    (folder / "acme_with_effect.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Net: ...\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "acme_with_effect", raising=False)


@pytest.mark.parametrize(
    "requirement",
    ["torch", "torch>=2", "Torch >= 2, < 99", "hookline>=0.1", "pytest!=1.0", "no-such-thing; python_version<'3'"],
)
def test_for_a_met_requirement_there_is_no_reason(requirement: str) -> None:
    assert unmet(requirement) is None


def test_for_an_unmet_requirement_the_reason_names_the_installed_version() -> None:
    assert unmet("pytest<2") == f"pytest {version('pytest')} is installed"
    assert unmet("no-such-distribution>=1") == "no-such-distribution is not installed"


@pytest.mark.parametrize("text", ["", "a b", "torch>=", "torch==x", "x @ https://example.org/x.whl"])
def test_an_invalid_requirement_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a requirement like|gives a URL"):
        unmet(text)


@pytest.mark.parametrize(
    "requires", [(), ("hookline",), ("hookline>=0.1,<9", "torch>=99"), ("hookline>9; extra=='x'",)]
)
def test_a_distribution_for_this_version_of_hookline_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requires: tuple[str, ...]
) -> None:
    install(tmp_path, *requires, monkeypatch=monkeypatch)
    assert load_plugin(ACME).target.__name__ == "Net"
    assert (tmp_path / "imported").exists()


def test_a_distribution_for_another_version_of_hookline_is_refused_before_its_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "hookline<9,>=7", monkeypatch=monkeypatch)
    with pytest.raises(PluginError) as caught:
        load_plugin(ACME)
    running = version("hookline")
    assert caught.value.message == (
        f"model 'net' (acme-net 1.0) requires hookline<9,>=7, but Hookline {running} is installed"
    )
    assert (caught.value.distribution, caught.value.version) == ("acme-net", "1.0")
    assert not (tmp_path / "imported").exists()


def test_requirements_that_cannot_be_read_are_an_error_that_names_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "hookline>>1", monkeypatch=monkeypatch)
    with pytest.raises(
        PluginError, match=r"cannot read the requirements of model 'net' \(acme-net 1\.0\): 'hookline>>1'"
    ):
        load_plugin(ACME)
    assert not (tmp_path / "imported").exists()
