"""Tags and notes of runs: written by one program at a time, beside a run that is at work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hookline import ConfigError
from hookline.runs import RunFolder
from hookline.runs.listing import list_runs, row_of
from hookline.runs.overview.notes import Notes, change_note, change_tags, read_notes
from hookline.runs.removal import remove_run


def _folder(parent: Path, label: str = "mine") -> Path:
    folder = RunFolder.claim(parent, label)
    folder.close()
    return folder.path


def test_a_run_at_work_is_tagged_and_does_not_notice(tmp_path: Path) -> None:
    with_notes = RunFolder.claim(tmp_path, "mine")
    path = with_notes.path
    before = (path / "run.json").read_bytes()
    change_tags(path, ["paper", "baseline"])
    change_note(path, "first\nsecond \x1b[31m")
    assert (path / "run.json").read_bytes() == before
    with_notes.save()
    with_notes.close()
    assert read_notes(path) == Notes(tags=["baseline", "paper"], note="first\nsecond \x1b[31m")
    assert (row_of(path).tags, row_of(path).note) == (["baseline", "paper"], "first\nsecond \x1b[31m")
    assert change_tags(path, remove=["paper", "no such"]).tags == ["baseline"]
    assert change_note(path, "").note == ""
    remove_run(path)  # they are files of the run, which no --force is needed for


def test_programs_that_tag_at_the_same_time_lose_no_tag(tmp_path: Path) -> None:
    path = _folder(tmp_path)
    children = []
    for child in range(4):
        if not (pid := os.fork()):
            for number in range(10):
                change_tags(path, [f"{child}-{number}"])
            os._exit(0)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert read_notes(path).tags == sorted(f"{child}-{number}" for child in range(4) for number in range(10))


def test_a_resuming_run_leaves_the_unfinished_notes_of_another_program_alone(tmp_path: Path) -> None:
    path = _folder(tmp_path)
    unfinished = [path / f".tmp-{name}-0123abcd" for name in ("notes.json", "run.json")]
    for file in unfinished:
        file.write_text("{")
    folder = RunFolder.open(path)
    folder.newest_checkpoint(print)
    folder.close()
    assert [file.exists() for file in unfinished] == [True, False]
    remove_run(path)


def test_all_faulty_tags_are_reported_and_nothing_is_written(tmp_path: Path) -> None:
    path = _folder(tmp_path)
    with pytest.raises(ConfigError) as caught:
        change_tags(path, ["good", "", "a b", "a,b", "\x1b[31m", "x" * 51])
    assert len(caught.value.faults) == 5
    with pytest.raises(ConfigError, match="would have 51 tags"):
        change_tags(path, map(str, range(51)))
    with pytest.raises(ConfigError, match="has 10,001 characters"):
        change_note(path, "x" * 10_001)
    assert not (path / "notes.json").exists()
    with pytest.raises(ConfigError, match="is not a run folder"):
        change_tags(tmp_path, ["good"])
    assert [entry.name for entry in tmp_path.glob(".notes*")] == []


@pytest.mark.parametrize("text", ["", "[]", '{"tags": [1]}', '{"format": 2}', '{"note": "\xff"}', f'["{"x" * 2**20}"]'])
def test_a_damaged_file_is_reported_and_kept_and_the_run_is_listed(text: str, tmp_path: Path) -> None:
    path = _folder(tmp_path)
    (path / "notes.json").write_bytes(text.encode("latin-1"))
    row = row_of(path)
    assert (row.status, row.tags, row.note) == ("lost", [], "")
    assert row.problem
    assert row.problem.startswith("notes.json cannot be read: ")
    with pytest.raises(ConfigError, match=r"notes\.json cannot be read"):
        change_tags(path, ["good"])
    assert (path / "notes.json").read_bytes() == text.encode("latin-1")


def test_runs_are_chosen_by_all_their_tags_and_by_a_text(tmp_path: Path) -> None:
    first, second, third = (_folder(tmp_path, label) for label in ("alpha", "beta", "gamma"))
    change_tags(first, ["paper", "old"])
    change_tags(third, ["paper"])
    change_note(second, "Stale ALPHA data")

    def names(newest: int | None = None, *, tags: tuple[str, ...] = (), text: str = "") -> tuple[list[str], int]:
        rows, num_left_out = list_runs(tmp_path, newest, tags=tags, text=text)
        return [row.path.name for row in rows], num_left_out

    assert names(tags=("paper",)) == ([first.name, third.name], 0)
    assert names(tags=("paper", "old")) == ([first.name], 0)
    assert names(text="alpha") == ([first.name, second.name], 0)
    assert names(text="pap", tags=("old",)) == ([first.name], 0)
    assert names(1, tags=("paper",)) == ([third.name], 1)
    assert names(tags=("no",)) == ([], 0)
