"""Predictor of the data source ``csv``: new rows read as in training, predictions as columns in the units of the file.

Imported only for predictions, because it needs torch. Shapes: ``B`` rows, ``I`` input features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from hookline import DataError, HooklineError
from hookline.engine import count_examples
from hookline.trained import Exportable
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.predictions import (
    NO_CLASSES,
    PROBLEM,
    WRITERS,
    class_columns,
    classes_of,
    in_batches,
    left_empty,
    number_columns,
)
from hookline_plugins.data.rows import names_of
from hookline_plugins.data.tables.columns import Reader, stacked, stacked_codes
from hookline_plugins.data.tables.features import TIME_PARTS, expanded, parts_of, source_columns
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.reading import Reading, read_pieces
from hookline_plugins.data.tables.files.sheet import Sheet, polars
from hookline_plugins.data.tables.preparation import Inputs, Preparation, Raw, prepared
from hookline_plugins.data.tables.scaling import Scale, Unscale
from hookline_plugins.data.tables.starting.choosing import check_known_columns
from hookline_plugins.data.tables.transforms import restored
from hookline_plugins.data.tables.ways import Missing, Transform, Ways

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from hookline import DataSource
    from hookline.trained import RawInput
    from hookline_plugins.data.tables.exported import RawColumns


_HINTS: Mapping[Missing, str] = {
    "error": "fill it in, or set `missing` to 'mean'",
    "drop": "fill it in, or set `missing` to 'mean': a prediction needs every feature",
}
"""Hint for a missing cell, if it is not filled in."""


class Rules(NamedTuple):
    """The rules of a run for new rows.

    Attributes:
        ways: How to treat the columns.
        fills_unseen: Whether a category that the training data lack is filled in; otherwise it is a fault.
        leaves_empty: Whether the predictions of faulty rows are left empty; otherwise they are faults.
    """

    ways: Ways
    fills_unseen: bool = False
    leaves_empty: bool = False


class _Kept(msgspec.Struct):
    """The values that ``Table`` keeps for new rows, as read from the description of the data of a run."""

    features: list[tuple[str, list[str] | None]]
    fill: list[float]
    mean: list[float]
    scale: list[float]
    target_mean: list[float]
    target_scale: list[float]
    dates: dict[str, str] = {}
    categories: Literal["one-hot", "codes"] = "one-hot"
    others: list[str] = []
    flags: list[str] = []
    booleans: list[str] = []
    transforms: dict[str, Transform] = {}
    quantiles: dict[str, Annotated[list[float], msgspec.Meta(min_length=2)]] = {}

    def __post_init__(self) -> None:
        if len(self.target_mean) != len(self.target_scale):
            raise ValueError(f"{len(self.target_mean)} means and {len(self.target_scale)} scales of targets")

    @property
    def keeps_codes(self) -> bool:
        """Whether the model gets the codes of categories."""
        return self.categories == "codes"

    def preparation(self) -> Preparation:
        """Return the preparation of the training data."""
        columns = expanded(self.features, self.dates, self.others, self.flags)
        scale = Scale((), *map(_doubles, (self.fill, self.mean, self.scale)))
        names = [column.name for column in columns]
        return Preparation(columns, scale, self._restored(names), keeps_codes=self.keeps_codes)

    def unscale(self, target_names: Sequence[str]) -> Unscale:
        """Return the way back to the units of the file."""
        found = self._restored(target_names)
        transforms = {number: found[name] for number, name in enumerate(target_names) if name in found}
        return Unscale(_doubles(self.target_mean), _doubles(self.target_scale), transforms)

    def _restored(self, names: Sequence[str]) -> dict[str, nn.Module]:
        return {
            name: restored(self.transforms[name], self.quantiles.get(name, ()))
            for name in names
            if name in self.transforms
        }


class TablePredictor:
    """Predictor that reads rows with the categories, means and scales of the training data.

    Args:
        data: The training data, as stored with the run.
        form: How the cells of the file are written.
        rules: The rules for its rows.
        task: The option ``task`` of the training.
        source: A file of the training data, which may be missing.
    """

    writers = WRITERS

    def __init__(
        self, data: DataSource, form: TableFormat, rules: Rules, task: str, source: Path | None = None
    ) -> None:
        try:
            self._kept = kept = msgspec.convert(dict(data.kept), _Kept)
            self._preparation = kept.preparation()
            self._unscale = kept.unscale(data.target_names if task == "regression" else ())
        except ValueError as error:
            raise DataError(f"the description of the columns, saved with the run, cannot be used: {error}") from error
        if task == "regression" and len(kept.target_mean) != len(data.target_names):
            raise DataError("the description of the columns, saved with the run, has other targets than scales")
        self._data, self._task, self._form, self._rules, self._source = data, task, form, rules, source
        self._levels: dict[str, list[str] | None] = dict(kept.features)
        self._dates = kept.dates
        self._booleans, self._others = kept.booleans, kept.others
        self._held: list[pl.DataFrame] = []
        self._beside: pl.DataFrame | None = None

    @property
    def feature_columns(self) -> Sequence[str] | Mapping[str, Sequence[str]]:
        """The column of the file that each input feature stems from; for mappings of inputs, those of each."""
        kept = self._kept
        return source_columns(kept.features, kept.dates, kept.others, kept.flags, keeps_codes=kept.keeps_codes)

    def read(self, path: Path, batch_size: int) -> Iterator[Inputs]:
        """Yield the inputs of a file: float64 ``[B, I]``, or numbers and codes of categories by name.

        Raises:
            DataError: If its columns or cells do not match the training data; carries every fault.
        """
        self._held = []
        for inputs in in_batches(self._parts(partial(read_pieces, path), Faults(path)), batch_size):
            self._beside = self._next_rows(count_examples(inputs))
            yield inputs

    def predict(
        self, model: Callable[[Any], Any], inputs: Any, batch_size: int, *, probabilities: bool = False
    ) -> NDArray[Any]:
        """Return labels ``[N]`` or numbers ``[N]`` or ``[N, O]`` for the rows of a frame; or probabilities ``[N, C]``.

        Raises:
            DataError: If its columns or cells do not match the training data; carries every fault.
        """
        if probabilities and self._task == "regression":
            raise ValueError(NO_CLASSES)
        rules = self._rules._replace(leaves_empty=False)
        strict = TablePredictor(self._data, self._form, rules, self._task)
        parts = strict._parts(partial(_pieces_of_frame, inputs), Faults(None))
        prediction = torch.cat([model(batch) for batch in in_batches(parts, batch_size)])
        if self._task != "regression":
            names, is_binary = self._data.class_names, self._task == "binary"
            return classes_of(prediction, names, is_binary=is_binary, probabilities=probabilities)
        values: Tensor = self._unscale(prediction.double())
        return (values.squeeze(1) if values.shape[1] == 1 else values).numpy()

    def exportable(self, model: nn.Module) -> Exportable:
        """Return the model with the preparation of the training, for the columns of a file."""
        from hookline_plugins.data.exported import RawModel, outputs_of, units_of
        from hookline_plugins.data.tables.exported import RawColumns, table_form

        names = self._data.class_names if self._task != "regression" else ()
        prepare = RawColumns(list(self._levels.items()), self._calendar_dates, self._preparation)
        return Exportable(
            RawModel(prepare, model, units_of(names, self._unscale, is_binary=self._task == "binary")),
            tuple(self._raw_input(name, levels) for name, levels in self._levels.items()),
            outputs_of(self._data, names),
            partial(self._examples, prepare),
            table_form(self._form, leaves_empty=self._rules.leaves_empty),
        )

    def _raw_input(self, name: str, levels: list[str] | None) -> RawInput:
        from hookline_plugins.data.tables.exported import raw_input

        rules = self._rules
        return replace(
            raw_input(name, levels, self._dates.get(name), is_boolean=name in self._booleans),
            fills_missing=rules.ways.missing_of(name) not in _HINTS,
            fills_unseen=levels is not None and (rules.fills_unseen or name in self._others),
        )

    @property
    def _calendar_dates(self) -> dict[str, str]:
        """The forms of dates; an exported model takes times of the day as numbers of hours."""
        return {name: form for name, form in self._dates.items() if parts_of(form) != TIME_PARTS}

    def _examples(self, prepare: RawColumns, count: int) -> tuple[dict[str, Tensor], Inputs, str]:
        """Return the first good rows of the training data, raw and prepared; invented ones if there are none."""
        from hookline_plugins.data.tables.exported import columns_of, invented_columns

        columns = list(self._levels.items())
        raw = self._first_rows(count)
        if raw is None:
            given = invented_columns(columns, self._calendar_dates, self._preparation, count)
            return given, prepare(given), f"{count} invented rows, because the training data cannot be read"
        given = columns_of(columns, self._calendar_dates, raw)
        return (
            given,
            self._preparation(raw.numbers.T, raw.categories.T),
            f"{raw.numbers.shape[1]} rows of the training data",
        )

    def _first_rows(self, count: int) -> Raw | None:
        if self._source is None:
            return None
        faults, problems = Faults(self._source), dict[int, str]()
        try:
            sheet = next(read_pieces(self._source, self._reading(), faults))
            self._readable = check_known_columns(sheet, list(self._levels), faults)
            raw = self._raw(sheet, faults, problems)
            faults.check()
        except (HooklineError, OSError):
            return None
        bad = {*sheet.problems, *problems}
        rows = [place for place, row in enumerate(sheet.rows) if row not in bad][:count]
        return Raw(raw.numbers[:, rows], raw.categories[:, rows]) if rows else None

    def beside(self) -> Mapping[str, Sequence[Any]]:
        """Return the columns of the last batch that are not features, and the problems of its rows."""
        assert self._beside is not None, "a batch was read"
        return {name: self._beside[name].to_list() for name in self._beside.columns}

    def columns(self, prediction: Tensor) -> Mapping[str, Sequence[Any]]:
        """Return ``predicted_TARGET`` for each target, in the units of the file, and the probability of each class."""
        data, is_binary = self._data, self._task == "binary"
        found = (
            number_columns(prediction, data.target_names, self._unscale)
            if self._task == "regression"
            else class_columns(prediction, data.target_names[0], data.class_names, is_binary=is_binary)
        )
        if not self._rules.leaves_empty or self._beside is None:
            return found
        return left_empty(found, self._beside[PROBLEM].to_list())

    def _parts(self, pieces: Callable[[Reading, Faults], Iterator[Sheet]], faults: Faults) -> Iterator[Inputs]:
        sheet: Sheet | None = None
        num_rows = 0
        for sheet in pieces(self._reading(), faults):
            if not num_rows:
                self._readable = check_known_columns(sheet, list(self._levels), faults)
                self._check_others(sheet, faults)
            num_rows += sheet.frame.height
            inputs = self._inputs(sheet, faults)
            # After a fault the remaining parts are still read, for theirs.
            if inputs is not None and not faults.has_any:
                yield inputs
        faults.check(sheet)
        if not num_rows:
            faults.stop("there are no rows")

    def _reading(self) -> Reading:
        numbers = {name for name, levels in self._levels.items() if levels is None} - {*self._dates, *self._booleans}
        return Reading(self._form, lambda name: name not in numbers, keeps_malformed=self._rules.leaves_empty)

    def _check_others(self, sheet: Sheet, faults: Faults) -> None:
        """Refuse columns that would be hidden by those of the predictions."""
        data = self._data
        made = {f"predicted_{name}" for name in data.target_names} | {
            f"probability_{name}" for name in data.class_names
        }
        for name in sheet.names:
            if name in made | ({PROBLEM} if self._rules.leaves_empty else set()):
                faults.add(f"the column {name!r} has the name of a result", hint="leave it out, or rename it")

    def _inputs(self, sheet: Sheet, faults: Faults) -> Inputs | None:
        problems = dict(sheet.problems) if self._rules.leaves_empty else None
        raw = self._raw(sheet, faults, problems)
        if faults.has_any or sheet.frame.is_empty():
            return None
        others = sheet.frame.select(name for name in dict.fromkeys(sheet.names) if name and name not in self._levels)
        if problems is not None:
            texts = [problems.get(row) for row in sheet.rows]
            # A frame without columns has no rows, so that a column of another length cannot be added to it.
            others = polars().DataFrame([*others, polars().Series(PROBLEM, texts, dtype=polars().String)])
        self._held.append(others)
        return prepared(self._preparation, raw, torch.arange(sheet.frame.height))

    def _raw(self, sheet: Sheet, faults: Faults, problems: dict[int, str] | None) -> Raw:
        reader = Reader(sheet, faults, self._rules.ways, problems)
        numbers = [column for name in self._readable for column in self._numbers(reader, name)]
        codes = [
            self._codes(reader, name, levels) for name in self._readable if (levels := self._levels[name]) is not None
        ]
        num_rows = sheet.frame.height
        return Raw(stacked(numbers, num_rows), stacked_codes(codes, num_rows))

    def _numbers(self, reader: Reader, name: str) -> list[pl.Series]:
        hint = _HINTS.get(self._rules.ways.missing_of(name))
        if name in self._dates:
            return reader.dates(name, self._dates[name], hint)
        if name in self._booleans:
            return [reader.known_booleans(name, hint)]
        return [reader.numbers(name, hint)] if self._levels[name] is None else []

    def _codes(self, reader: Reader, name: str, levels: list[str]) -> pl.Series:
        hint = _HINTS.get(self._rules.ways.missing_of(name))
        fills_unseen = self._rules.fills_unseen or name in self._others
        return reader.known_codes(name, levels, hint, fills_unseen=fills_unseen)

    def _next_rows(self, count: int) -> pl.DataFrame:
        """Take the next rows of the columns that are not features from those that were read."""
        held = polars().concat(self._held, how="vertical_relaxed") if len(self._held) > 1 else self._held[0]
        self._held = [held[count:]]
        taken: pl.DataFrame = held[:count]
        return taken


def _pieces_of_frame(given: Any, reading: Reading, faults: Faults) -> Iterator[Sheet]:
    """Yield the rows of a frame of any library, as ``read_pieces`` yields those of a file."""
    names = names_of(given)
    if names is None:
        hint = "pass a frame of pandas, polars or Arrow, or a mapping of columns"
        faults.stop(f"the inputs are {type(given).__name__}, without names of columns", hint=hint)
    pl = polars()
    frame = pl.DataFrame([_series(str(name), given[name], faults) for name in names])
    yield Sheet(
        Path("the given frame"), tuple(frame.columns), frame, pl.int_range(frame.height, eager=True), reading.form, None
    )


def _series(name: str, column: Any, faults: Faults) -> pl.Series:
    """Return a column of a given frame.

    Raises:
        DataError: If its cells are not single values.
    """
    hint = "pass one number, text, date or time for each row"
    try:
        series: pl.Series = polars().Series(name, _cells_of(column))
    except (ValueError, TypeError, polars().exceptions.PolarsError) as error:
        faults.stop(f"column {name!r} cannot be read: {str(error).partition(chr(10))[0]}", hint=hint)
    if series.dtype.is_nested():
        faults.stop(f"column {name!r} holds values of type {series.dtype}", hint=hint)
    return series


def _cells_of(column: Any) -> Any:
    """Return the cells of a column as polars takes them: without NaN among texts, and of one type."""
    cells = np.asarray(column)
    if cells.dtype != object:
        return cells
    values = [None if _is_nothing(cell) else cell for cell in cells.tolist()]
    types = {type(value) for value in values if value is not None}
    return values if len(types) < 2 else [None if value is None else str(value) for value in values]


def _is_nothing(cell: Any) -> bool:
    """Return whether a cell is None, NaN, or pandas' ``NA``, whose comparisons have no truth value."""
    try:
        return cell is None or bool(cell != cell)  # noqa: PLR0124 - NaN
    except (TypeError, ValueError):
        return not hasattr(cell, "__len__")


def _doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
