"""The fingerprint of a run: plain values without secrets, which change when something changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import DataSource, Run, hookimpl, load_config
from hookline.runs import commit_of, identity_of
from hookline.runs.disk.encoding import encode
from hookline.runs.redaction import redacted, redacted_word


def source(dataset: Any, **splits: Any) -> Any:
    class Given:
        """Return a dataset."""

        @hookimpl
        def build_data(self) -> DataSource:
            return DataSource(dataset, in_features=2, out_features=1, **splits)

    return Given()


def identity(dataset: Any, **values: Any) -> Any:
    return identity_of(Run(load_config(values, plugins={"data": source(dataset)})))


def rows(seed: int = 0, num: int = 200) -> TensorDataset:
    inputs = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


class Lazy(Dataset[tuple[Tensor, Tensor]]):
    """Rows that are read on demand."""

    def __init__(self, sign: str | None = None) -> None:
        if sign is not None:
            self.fingerprint = lambda: sign

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.ones(2), torch.ones(1)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream of unknown length."""

    def __iter__(self) -> Any:
        return iter([(torch.ones(2), torch.ones(1))] * 20)


def test_the_same_run_has_the_same_identity_and_it_can_be_saved() -> None:
    first, second = identity(rows()), identity(rows())
    assert first == second
    assert json.loads(json.dumps(first)) == first
    encode(first)


def test_versions_plugins_and_machine_are_included() -> None:
    found = identity_of(Run(load_config({})))
    assert found["versions"].keys() >= {"hookline", "torch", "numpy", "python", "hooks"}
    assert found["plugins"]["model"]["name"] == "linear"
    assert found["plugins"]["model"]["distribution"] == "hookline"
    assert len(found["code"]["hookline"]["sha256"]) == 64
    assert found["machine"].keys() == {"device", "type", "num_threads"}
    assert found["settings"]["train.epochs"] == 3


def test_data_in_memory_are_known_by_type_size_and_values() -> None:
    base = identity(rows())["data"]["train"]
    assert base["num_examples"] == 200
    assert identity(rows(seed=1))["data"]["train"] != base
    assert identity(rows(num=199))["data"]["train"] != base
    inputs, targets = rows().tensors
    assert identity(TensorDataset(inputs.flip(0), targets.flip(0)))["data"]["train"] != base
    assert identity(TensorDataset(inputs + 1, targets))["data"]["train"] != base


def test_a_dataset_that_says_what_it_is_is_believed() -> None:
    assert identity(Lazy("a"))["data"] != identity(Lazy("b"))["data"]
    assert identity(Lazy("a"))["data"] == identity(Lazy("a"))["data"]


def test_other_datasets_are_known_by_type_and_size() -> None:
    assert identity(Lazy())["data"]["train"] == {"type": "Lazy", "num_examples": 20, "content": None}
    assert identity(Stream())["data"]["train"] == {"type": "Stream", "num_examples": None, "content": None}


@dataclass
class Uploads:
    """Has options that are secrets."""

    token: str = ""
    url: str = ""

    @hookimpl
    def on_run_end(self) -> None:
        """Do nothing."""


def test_secrets_are_not_included() -> None:
    run = Run(load_config({}, plugins={"callbacks.up": Uploads("hunter2", "postgres://me:hunter2@host/runs")}))
    run.fit()
    assert "hunter2" not in json.dumps(identity_of(run))
    assert "hunter2" not in repr(redacted({"a": [{"password": "hunter2"}, "ftp://u:hunter2@h"]}))
    assert "hunter2" not in redacted_word("callbacks.up.token=hunter2")


# ---- the commit ------------------------------------------------------------------------------------------------------

COMMIT, OTHER = "0123456789" * 4, "abcdef0123" * 4


def put(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_commit_is_found_as_git_stores_it(tmp_path: Path) -> None:
    git, within = tmp_path / ".git", tmp_path / "a" / "b"
    within.mkdir(parents=True)
    put(git, HEAD=f"{COMMIT}\n")
    assert commit_of(within) == COMMIT, "a commit that is checked out without a branch"
    put(git, HEAD="ref: refs/heads/main\n")
    assert commit_of(within) is None, "a branch without a commit"
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{OTHER} refs/heads/other\n{COMMIT} refs/heads/main\n")
    assert commit_of(within) == COMMIT, "a packed branch"
    put(git, refs__heads__main=f"{OTHER}\n")
    assert commit_of(within) == OTHER, "a branch that was changed since it was packed"


def test_a_worktree_has_a_commit_of_its_own(tmp_path: Path) -> None:
    shared, work = tmp_path / "repository" / ".git", tmp_path / "work"
    work.mkdir()
    put(shared, HEAD=f"{OTHER}\n", refs__heads__topic=f"{COMMIT}\n", worktrees__work__HEAD="ref: refs/heads/topic\n")
    put(shared / "worktrees" / "work", commondir="../..\n")
    (work / ".git").write_text(f"gitdir: {shared}/worktrees/work\n")
    assert commit_of(work) == COMMIT


@pytest.mark.skipif(shutil.which("git") is None, reason="no git to compare with")
def test_it_is_the_commit_that_git_names(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        settings = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    for words in (
        ["init"],
        ["commit", "--allow-empty", "-m", "one"],
        ["checkout", "-b", "a/b"],
        ["pack-refs", "--all"],
    ):
        git(*words)
    assert commit_of(tmp_path) == git("rev-parse", "HEAD")
    git("worktree", "add", "-b", "c", "tree")
    git("-C", "tree", "commit", "--allow-empty", "-m", "two")
    assert commit_of(tmp_path / "tree") == git("-C", "tree", "rev-parse", "HEAD") != commit_of(tmp_path)


@pytest.mark.parametrize(
    "head", ["", "ref: ", "ref: ../../secret\n", "ref: \0\n", "\xff", "0123", "x" * 10**5, "ref: refs/heads/main/x\n"]
)
def test_a_head_that_names_no_commit_is_none_and_no_other_file_is_recorded(head: str, tmp_path: Path) -> None:
    put(tmp_path / ".git", refs__heads__main=COMMIT)
    (tmp_path / ".git" / "HEAD").write_bytes(head.encode("latin-1"))
    (tmp_path / "secret").write_text("the text of another file")
    assert commit_of(tmp_path) is None


def test_a_head_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert commit_of(tmp_path) is None
