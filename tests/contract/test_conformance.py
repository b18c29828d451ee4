"""Every default plugin keeps the contract of its kind."""

from __future__ import annotations

from typing import Any

import pytest

from hookline import Catalog, Entry
from hookline.testing import check_plugin
from support import FIXTURES

OWN = [entry for entry in Catalog.installed().entries if entry.distribution == "hookline"]
OPTIONS: dict[str, dict[str, Any]] = {
    "csv": {"path": str(FIXTURES / "nist" / "norris.csv"), "target": "y"},
    "arrays": {"path": str(FIXTURES / "iris" / "iris.npz")},
    "clip-gradients": {"max_norm": 1.0},
    "compile": {"backend": "eager"},  # the default makes C++, which takes most of a minute
    "averaging": {"at_end": "raw"},  # the average in the end is a change that it is asked for
    "freeze": {"parameters": ["*bias"]},
}


@pytest.mark.parametrize("entry", OWN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_a_default_plugin_keeps_the_contract_of_its_kind(entry: Entry) -> None:
    report = check_plugin(entry.kind, entry.qualified_name, options=OPTIONS.get(entry.name, {}))
    assert len(report.ran) > len(report.skipped)
