"""The metrics of a run as a frame."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from hookline import RunResult
from hookline.runs import RunFolder, frame


def test_a_frame_has_a_row_for_each_epoch_of_a_result_and_each_line_of_a_folder(tmp_path: Path) -> None:
    result = cast(RunResult, SimpleNamespace(history=[{"a": 1.0}, {"a": 2.0, "b": 3.0}]))
    assert frame(result).to_dict(as_series=False) == {"epoch": [1, 2], "a": [1.0, 2.0], "b": [None, 3.0]}
    folder = RunFolder.claim(tmp_path, "mine")
    folder.close()
    (folder.path / "metrics.jsonl").write_text(
        '{"epoch": 1, "step": 5, "a": null}\nnot JSON\n{"epoch": 1, "step": 9, "b": 2}\n'
    )
    rows = frame(str(folder.path)).rows()
    assert rows == [(1, 5, None, None), (1, 9, None, 2)]
