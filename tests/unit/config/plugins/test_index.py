"""The index of known plugins: what to install for a name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tomli

from hookline import Catalog, ConfigError, load_config
from hookline.config.plugins.index import KnownPlugin, read_index
from hookline.config.plugins.requirements import unmet
from support import ROOT

PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = tomli.loads((ROOT / "plugins" / "hookline_plugins" / "commands" / "index.toml").read_text())["plugin"]
NOT_OF_A_PLUGIN = {"dev", "docs", "test", "testing", "hub", "metrics", "plots", "sklearn", "tokenizers"}
"""Extras for which a plugin has options, or commands and programs have uses: none is needed by a plugin as such."""

ACME = """
[[plugin]]
kind = "model"
name = "bumps"
distribution = "acme-plugins>=1.2"
summary = "A sum of bumps"
homepage = "https://example.org/bumps"
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with an index; the import of its package would fail."""
    info, package = tmp_path / "acme_index-1.0.dist-info", tmp_path / "acme_index"
    info.mkdir()
    package.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-index\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hookline.index]\nours = acme_index:index.toml\n")
    (package / "__init__.py").write_text("raise RuntimeError\n")
    (package / "index.toml").write_text(ACME)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package / "index.toml"


def test_our_own_index_is_sorted_and_says_each_thing_once() -> None:
    keys = [(one["kind"], one["name"], one["distribution"]) for one in OWN]
    assert keys == sorted(set(keys))
    assert len(read_index(Catalog.installed()).plugins) >= len(OWN), "each is read"
    for one in OWN:
        assert one.keys() <= {*KnownPlugin.__struct_fields__} - {"listed_by"}
        assert not one["summary"].endswith("."), one


def test_our_own_plugins_are_listed_under_an_extra_that_there_is() -> None:
    extras = set()
    for one in OWN:
        distribution, _, extra = one["distribution"].partition("[")
        if distribution == "hookline":
            assert one["name"] in PROJECT["entry-points"][f"hookline.{one['kind']}"], one
            extras.add(extra.removesuffix("]"))
    assert extras == PROJECT["optional-dependencies"].keys() - NOT_OF_A_PLUGIN


def test_a_name_that_is_not_installed_comes_with_the_distribution_that_has_it(acme: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"model": "Bumps"})
    [fault] = caught.value.faults
    first, second = (fault.hint or "").split("\n")
    assert first.startswith(("did you mean", "known: "))
    expected = "'Bumps' is in the distribution acme-plugins>=1.2: pip install 'acme-plugins>=1.2'"
    assert second == f"  = {expected} (says the index of acme-index 1.0)"
    assert "acme_index" not in sys.modules
    catalog = Catalog.installed()
    index = read_index(catalog)
    assert len(index.hints("model", "acme-plugins/bumps")) == 1
    assert not index.hints("loss", "bumps")
    assert not read_index(catalog.restricted(deny=["acme-index"], by="--{}")).hints("model", "bumps")


def test_an_installed_distribution_without_the_plugin_may_have_it_in_another_release(acme: Path) -> None:
    acme.write_text(ACME.replace("acme-plugins>=1.2", "acme-index"))
    [hint] = read_index(Catalog.installed()).hints("model", "bumps")
    assert "pip install --upgrade acme-index" in hint


def test_the_texts_of_others_can_forge_no_line(acme: Path) -> None:
    acme.write_text(ACME.replace("A sum of bumps", "A \\u001b[2J\\nerror: x"))
    [plugin] = [one for one in read_index(Catalog.installed()).plugins if one.listed_by]
    assert plugin.summary == "A \\x1b[2J\\nerror: x"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('summary = "A sum of bumps"', ""), "required field `summary`"),
        (("acme-plugins>=1.2", "acme @ https://example.org/x.whl"), "distribution"),
        (("acme-plugins>=1.2", "acme; rm -rf x"), "distribution"),
        (("acme-plugins>=1.2", "git+https://example.org/x"), "distribution"),
        (("https://example.org", "javascript:"), "homepage"),
        (("[[plugin]]", "[[plugin"), "Expected"),
        (("\n", "#" * 2**20 + "\n"), "bytes, the limit is"),
    ],
)
def test_a_faulty_index_is_a_problem_of_its_distribution_alone(acme: Path, change: tuple[str, str], why: str) -> None:
    acme.write_text(ACME.replace(*change, 1))
    index = read_index(Catalog.installed())
    assert {plugin.listed_by for plugin in index.plugins} == {""}
    [problem] = index.problems
    assert problem.startswith("the index of acme-index 1.0 cannot be read: ")
    assert why in problem
    acme.unlink()
    [problem] = read_index(Catalog.installed()).problems
    assert "there is no file 'acme_index:index.toml'" in problem


def test_a_requirement_with_an_extra_is_met_when_the_extra_is_installed(acme: Path) -> None:
    metadata = acme.parents[1] / "acme_index-1.0.dist-info" / "METADATA"
    lines = ["pluggy; extra == 'good'", "no-such-thing>=2; extra == 'bad'", "acme-index[bad]; extra == 'all'"]
    lines += ["acme-index[round]; extra == 'round'", "pytest<2; extra == 'old' and python_version > '3'"]
    metadata.write_text(metadata.read_text() + "".join(f"Requires-Dist: {line}\n" for line in lines))
    assert unmet("acme-index[good]") is unmet("acme-index[round]") is unmet("acme-index") is None
    assert unmet("acme-index[good,all]") == "no-such-thing is not installed"
    assert "pytest" in (unmet("acme-index[old]") or "")
