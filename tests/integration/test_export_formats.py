"""Export formats that an installed distribution adds to ``hookline export``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from support import Environment, run, warm_program


@pytest.fixture(scope="module")
def place(extended: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    assert extended.hookline("train", "--quiet", "train.epochs=1", cwd=folder).returncode == 0
    return folder


def test_the_help_lists_the_formats_with_their_distributions_and_imports_none(extended: Environment) -> None:
    done = extended.hookline("export", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = done.stdout.partition("Formats:\n")[2].partition("\n\n")[0]
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in listed.splitlines()}
    assert lines["arrays"] == "A format of acme-rival 2.0.0."
    assert lines["onnx"].startswith("An ONNX file")
    assert "safetensors" not in lines, "two distributions offer it"
    assert {"hookline/safetensors", "acme-rival/safetensors"} <= lines.keys()
    assert not [line for line in extended.hookline("--allow", "acme-plugins", "export", "-h").stdout if "rival" in line]
    found = json.loads(extended.hookline("plugins", "export", "--json").stdout)
    assert {one["state"][0] for one in found if one["name"].endswith("/safetensors")} == {"conflict"}


def test_a_format_of_a_distribution_writes_a_folder_that_is_compared_and_published(
    extended: Environment, place: Path
) -> None:
    words = ["export", "last", "--to", "arrays", "-o", "made", "export.prefix=v-", "--json"]
    done = extended.hookline(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # its module prints, but not to standard output
    assert (found["path"], found["largest_difference"], found["examples"]) == ("made", 0, 16)
    assert found["published"] == "published 2 files"
    weights = load_file(place / "runs" / "0001-synthetic-linear-linear" / "model.safetensors")
    assert {file.name for file in (place / "made").iterdir()} == {"v-weight.npy", "v-bias.npy"}
    np.testing.assert_array_equal(np.load(place / "made" / "v-weight.npy"), weights["weight"])
    assert "made already exists" in extended.hookline(*words, cwd=place).stderr
    assert extended.hookline(*words, "--force", cwd=place).returncode == 0
    (place / "made" / "mine.txt").write_text("precious")
    done = extended.hookline(*words, "--force", cwd=place)
    assert (done.returncode, "it also holds 'mine.txt'" in done.stderr) == (2, True)
    assert (place / "made" / "mine.txt").read_text() == "precious"
    assert not list(place.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["arrays", "export.prefox=a"], 2, "did you mean 'prefix'?"),
        (["safetensors"], 3, "is offered by acme-rival 2.0.0 and hookline 0.1.0"),
        (["no-format"], 3, "export 'no-format' (acme-rival 2.0.0) is not"),
        (["fails"], 1, "raised in export 'fails' (acme-rival 2.0.0)"),
        (["nothing"], 4, "export 'nothing' (acme-rival 2.0.0) wrote nothing"),
    ],
)
def test_a_wrong_name_option_or_format_is_an_error_that_names_it_and_leaves_no_file(
    extended: Environment, place: Path, words: list[str], code: int, message: str
) -> None:
    before = sorted(place.iterdir())
    done = extended.hookline("export", "last", "--to", *words, cwd=place)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert sorted(place.iterdir()) == before


def test_show_has_the_options_of_a_format_and_the_command(extended: Environment) -> None:
    done = extended.hookline("show", "export", "arrays")
    assert "beginning of the names of the files" in done.stdout
    assert done.stdout.splitlines()[-1] == "hookline export last --to arrays 'export.prefix=\"w-\"'"


def test_a_bundle_predicts_in_another_environment_without_the_run_and_its_data(
    extended: Environment, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    rows = [f"{n % 9},{['x', 'y'][n % 2]},{3 * (n % 9)}" for n in range(30)]
    (tmp_path / "there" / "a.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    (tmp_path / "new.csv").write_text("a,b\n3,y\n1e-3,x\n")
    words = ["data=csv", "data.path=a.csv", "data.target=y", 'data.one_hot=["b"]', "data.standardize=true"]
    assert extended.hookline("train", *words, "--quiet", cwd=tmp_path / "there").returncode == 0
    expected = extended.hookline("predict", "last", "../new.csv", cwd=tmp_path / "there")
    assert extended.hookline("export", "last", "--to", "bundle", "-o", "../b.zip", cwd=tmp_path / "there").stderr == ""
    shutil.rmtree(tmp_path / "there")
    found = run([str(warm_program()), "predict", "b.zip", "new.csv"], cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, expected.stdout), found.stderr
    assert found.stdout.count("\n") == 3
