"""The order of copies and steps of ``copied_ahead``, on streams that only note what they are told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hookline.shortcuts.copies import copied_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Stream:
    """Notes operations, in place of a stream of CUDA."""

    def __init__(self, _: Any = None) -> None:
        self.noted: list[str] = []

    def last(self) -> str:
        return next((text for text in reversed(self.noted) if not text.startswith("wait")), "nothing")

    record_event = last

    def wait_event(self, event: str) -> None:
        self.noted.append(f"wait for {event}")

    def wait_stream(self, other: Stream) -> None:
        self.noted.append(f"wait for {other.last()}")


def test_a_batch_is_copied_during_the_step_before_into_memory_that_no_step_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, copies = Stream(), Stream()
    used = [steps]

    @contextmanager
    def stream(other: Stream) -> Iterator[None]:
        used.append(other)
        yield
        used.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: used[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)

    def copy(number: int) -> int:
        used[-1].noted.append(f"copy {number}")
        return number

    for number in copied_ahead(range(1, 5), copy, torch.device("cuda")):
        used[-1].noted.append(f"step {number}")
    # Copy 3 may get the memory of batch 1, while step 2 is still computed.
    assert copies.noted == [
        *("copy 1", "wait for nothing", "copy 2", "wait for step 1", "copy 3", "wait for step 2", "copy 4"),
    ]
    expected = [(f"wait for copy {number}", f"step {number}") for number in range(1, 5)]
    assert steps.noted == [text for pair in expected for text in pair]
