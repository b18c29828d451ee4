"""Predictor of the data source ``corpus``: prompts of a file, and their continuations by the model.

Imported only for predictions, because it needs torch. Shapes: ``B`` prompts, ``T`` tokens, ``V`` tokens of the
tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookline import DataError
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.data.predictions import WRITERS
from hookline_plugins.data.text.documents import TABLES, read_cells, read_lines
from hookline_plugins.data.text.sampling import Sampling, continued
from hookline_plugins.data.text.tokens import tokenizer_from

if TYPE_CHECKING:
    from hookline import DataSource, RunView


class TextPredictor:
    """Continues prompts with the model of a run, the same way for the same seed.

    Args:
        run: The run, with its model.
        data: The training data, as stored with the run.
        column: The column of the prompts in a table.
        sampling: How to draw tokens.
        seed: Seed of the first prompt; the others have the numbers after it.
    """

    writers = WRITERS

    def __init__(self, run: RunView, data: DataSource, column: str | None, sampling: Sampling, seed: int) -> None:
        self._run, self._column, self._sampling, self._seed = run, column, sampling, seed
        context = data.kept.get("context")
        if not isinstance(context, int) or context < 1:
            raise DataError("the description of the data, saved with the run, has no context")
        self._context = context
        self._tokenizer = tokenizer_from(data.kept.get("tokenizer"))
        self._prompts: list[str] = []
        self._num_before = 0

    def read(self, path: Path, batch_size: int) -> Iterator[Tensor]:
        """Yield the prompts of a file as tokens: the last ``T`` of each, int64 ``[B, T]``, filled up with 0.

        Raises:
            DataError: If the file cannot be read; carries every fault.
        """
        faults = Faults(path)
        prompts = list(self._read(path, faults))
        faults.check()
        for first in range(0, len(prompts), batch_size):
            self._prompts, self._num_before = prompts[first : first + batch_size], first
            windows = [each.tolist()[-self._context :] for each in self._tokenizer.encode(self._prompts)]
            width = max(1, *map(len, windows))
            yield torch.tensor([window + [0] * (width - len(window)) for window in windows])

    def beside(self) -> Mapping[str, Sequence[str]]:
        """Return the prompts of the last batch."""
        return {"prompt": self._prompts}

    def columns(self, prediction: Any) -> Mapping[str, Sequence[str]]:  # noqa: ARG002 - of a single token
        """Return the continuation of each prompt; its tokens are predicted one by one."""
        written = continued(
            self._run, self._tokenizer, self._context, self._prompts, self._sampling, self._seed + self._num_before
        )
        return {"continuation": written}

    def _read(self, path: Path, faults: Faults) -> Iterator[str]:
        if path.suffix.lower() in TABLES:
            yield from read_cells(path, self._column, faults)
            return
        try:
            with path.open("rb") as file:
                yield from read_lines(file, path, faults)
        except OSError as error:
            faults.stop(f"the prompts cannot be read: {error}", hint=NO_FILE_HINT)
