"""Predictor of the data source ``texts``: new texts as tokens, predictions as labels and probabilities.

Imported only for predictions, because it needs torch. Shapes: ``B`` texts, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hookline import DataError, Location
from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.predictions import PROBLEM, WRITERS, class_columns, classes_of, left_empty
from hookline_plugins.data.text.labelled.reading import Piece, TextFormat, read_new
from hookline_plugins.data.text.labelled.rows import joined, padded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hookline import DataSource
    from hookline_plugins.data.text.labelled.tokenizing import Tokenizer


_EMPTY, _NO_TOKENS = "it is empty", "the text has no tokens"
_HINT = "leave it out, or set `faulty` to 'empty'"


class TextPredictor:
    """Predictor for the texts of a table, of a folder, or of a program.

    Args:
        data: The training data, as stored with the run.
        form: How texts are stored.
        tokenizer: Their tokenizer.
        max_length: The largest number of tokens of a text.
        leaves_empty: Whether the predictions of faulty texts are left empty; otherwise they are faults.

    Raises:
        DataError: If the tokenizer is not that of the training data.
    """

    writers = WRITERS

    def __init__(
        self, data: DataSource, form: TextFormat, tokenizer: Tokenizer, max_length: int, *, leaves_empty: bool
    ) -> None:
        if data.kept.get("tokenizer") != tokenizer.digest:
            hint = "restore its tokenizer.json, or name the folder where it is now: data.tokenizer=FOLDER"
            raise DataError("the tokenizer is not the one that the model was trained with", hint=hint)
        self._data, self._form, self._tokenizer, self._max_length = data, form, tokenizer, max_length
        self._leaves_empty = leaves_empty
        self._beside: dict[str, list[Any]] = {}
        self._problems: list[str | None] = []

    def read(self, path: Path, batch_size: int) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of a file or folder: ``input_ids`` and ``attention_mask``, int64 ``[B, T]``.

        Raises:
            DataError: With every fault of the texts.
        """
        faults = Faults(path)
        held: list[tuple[Sequence[int], str | None, dict[str, Any]]] = []
        piece = None
        for piece in read_new(path, self._form, faults, keeps_malformed=self._leaves_empty):
            held += self._rows(piece, faults)
            while len(held) >= batch_size:
                yield from self._batch(held[:batch_size], faults)
                held = held[batch_size:]
        faults.check(piece.sheet if piece else None)
        if held:
            yield from self._batch(held, faults)

    def beside(self) -> Mapping[str, Sequence[Any]]:
        """Return the other columns of the last batch, or the names of its files, and the problems of its texts."""
        return {**self._beside, **({PROBLEM: self._problems} if self._leaves_empty else {})}

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return the predicted label of each text, and the probability of each class."""
        data = self._data
        found = class_columns(prediction, data.target_names[0], data.class_names, is_binary=False)
        return left_empty(found, self._problems)

    def predict(
        self, model: Callable[[dict[str, Tensor]], Any], inputs: Any, batch_size: int, *, probabilities: bool = False
    ) -> NDArray[Any]:
        """Return the labels ``[N]`` of texts in a list, an array or a column; or the probabilities ``[N, C]``.

        Raises:
            DataError: If one of them is no text, or has no tokens; carries every fault.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        faults = Faults(None)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                faults.add(f"text {number} is {type(text).__name__}, not text", hint="texts count from 0")
        faults.check()
        ids = [self._tokenizer(text, self._max_length).ids for text in texts]
        for number in [number for number, one in enumerate(ids) if not one]:
            faults.add(f"text {number} has no tokens", hint="texts count from 0")
        faults.check()
        parts = [model(self._inputs(ids[first : first + batch_size])) for first in range(0, len(ids), batch_size)]
        names = self._data.class_names
        prediction = torch.cat(parts) if parts else torch.empty(0, len(names))
        return classes_of(prediction, names, is_binary=False, probabilities=probabilities)

    def _rows(self, piece: Piece, faults: Faults) -> list[tuple[Sequence[int], str | None, dict[str, Any]]]:
        """Return the tokens of each text, its problem, and its values in other columns; add the faults."""
        problems, ids = dict(piece.problems), []
        for index, text in enumerate(piece.texts):
            ids.append(self._tokenizer(text, self._max_length).ids if text else ())
            if not ids[-1]:
                problems.setdefault(index, _NO_TOKENS if text else _EMPTY)
        if not self._leaves_empty:
            self._add(problems, piece, faults)
        names = list(piece.beside)
        beside = [dict(zip(names, values, strict=True)) for values in zip(*piece.beside.values(), strict=True)]
        # A model needs some token; its prediction for it is left out.
        return [
            (one or (self._tokenizer.pad,), problems.get(index), beside[index] if names else {})
            for index, one in enumerate(ids)
        ]

    def _add(self, problems: Mapping[int, str], piece: Piece, faults: Faults) -> None:
        if piece.sheet is None:
            for index, message in problems.items():
                faults.add(message, location=Location(piece.beside["file"][index]), hint=_HINT)
            return
        listed = list(problems.items())[:LISTED]
        cells = [Cell(piece.rows[index], self._form.text, message, _HINT) for index, message in listed]
        faults.add_cells(cells, len(problems))

    def _batch(
        self, rows: list[tuple[Sequence[int], str | None, dict[str, Any]]], faults: Faults
    ) -> Iterator[dict[str, Tensor]]:
        if faults.has_any:  # the remaining texts are still read, for theirs
            return
        self._problems = [problem for _, problem, _ in rows]
        self._beside = {name: [values[name] for _, _, values in rows] for name in rows[0][2]}
        yield self._inputs([ids for ids, _, _ in rows])

    def _inputs(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        return padded(*joined(ids), self._tokenizer.pad)
