"""``Exportable``: a trained model that takes the values of a file, and the description of it that an export holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from hookline.engine.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
"""Version of the description."""

ENTRY = "description"
"""Name of the entry of the metadata of a file that holds the description."""

_MAX_BYTES = 2**26
"""Largest description that is read: 64 MiB, above a thousand levels of 60 KiB."""

_Dtype = Literal["text", "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
_Size = Annotated[int, msgspec.Meta(ge=0)]
_Character = Annotated[str, msgspec.Meta(max_length=1)]


@dataclass(frozen=True)
class RawInput:
    """An input of an exported model: the values of one column or array of a file.

    Attributes:
        name: Name of the column or array.
        dtype: NumPy's name of its dtype; or ``text``, which the module takes as int64 codes and an ONNX file as texts.
        shape: Shape of the input for one example; ``()`` for a column of a table.
        levels: For ``text``: the texts with the codes 1, 2, ...; any other text has the code 0.
        date: For a date, which is the number of days since 1970-01-01: its form in a text, as for
            ``datetime.strptime``.
        fills_missing: Whether the module fills in a missing value: NaN, or an empty text.
        fills_unseen: Whether the module takes texts that are not among the levels.
        time: For a time of day, which is the number of hours since midnight: its form in a text.
        words: For a column of words for numbers, such as ``true``: each word in lower case, with its number. Other
            words and numbers are refused.
    """

    name: str
    dtype: _Dtype = "float64"
    shape: tuple[_Size, ...] = ()
    levels: tuple[str, ...] = ()
    date: str | None = None
    fills_missing: bool = False
    fills_unseen: bool = False
    time: str | None = None
    words: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RawOutput:
    """An output of an exported model.

    Attributes:
        name: Its name.
        columns: Names of its columns ``[B, C]`` in the result of ``hookline predict``; one name for ``[B]``.
        labels: Text of each class, for an output ``[B]`` of class indices; an ONNX file gives these texts.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableForm:
    """How the cells of a CSV file are written; a Parquet file has only the missing values.

    Attributes:
        delimiter: The character between two cells; a blank stands for a run of blanks and tabs.
        decimal: The decimal sign.
        thousands: The character between groups of three digits; empty for none.
        comment: The beginning of lines to leave out; empty for none.
        header: Whether the first line holds the column names; without, they are ``column_1``, ``column_2``, ...
        encoding: The encoding of the text.
        missing_words: The texts that stand for a missing value, besides an empty cell.
        missing_numbers: The numbers that stand for a missing value.
        units: The unit that stands before or after each number of a column, by its name.
        leaves_empty: Whether a row that cannot be read has no prediction, and a text in the column ``problem``;
            otherwise it is an error.
    """

    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    thousands: _Character = ""
    comment: str = ""
    header: bool = True
    encoding: str = "utf-8"
    missing_words: tuple[str, ...] = ()
    missing_numbers: tuple[float, ...] = ()
    units: dict[str, str] = field(default_factory=dict)
    leaves_empty: bool = False


@dataclass(frozen=True)
class Exportable:
    """A trained model with the preparation of its inputs, as ``Predictor.exportable`` returns it.

    Attributes:
        module: Takes a mapping with a tensor ``[B, *shape]`` for each of ``inputs``, prepares them as in training,
            calls the model, and returns a mapping with a tensor for each of ``outputs``, in the units of the file.
        inputs: Its inputs.
        outputs: Its outputs. Their columns are those of ``Predictor.columns``, in the same order.
        examples: Returns about so many examples as a mapping for ``module``, the same examples as prepared inputs of
            the model, and a description of them for people. The outputs for both are compared.
        table: How the cells of a table are written; None for arrays.
    """

    module: nn.Module
    inputs: tuple[RawInput, ...]
    outputs: tuple[RawOutput, ...]
    examples: Callable[[int], tuple[Mapping[str, Tensor], Any, str]]
    table: TableForm | None = None


class Description(msgspec.Struct, frozen=True):
    """The description of an exported model that its file holds, as JSON.

    Attributes:
        version: Version of the description.
        inputs: The inputs of the model.
        outputs: Its outputs.
        table: How the cells of a table are written; None for arrays.
    """

    version: int
    inputs: tuple[RawInput, ...]
    outputs: tuple[RawOutput, ...]
    table: TableForm | None = None

    def text(self) -> str:
        """Return the description as JSON."""
        return msgspec.json.encode(self).decode()

    def columns(self, outputs: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return NumPy arrays of the outputs by name as columns of plain values by name."""
        columns: dict[str, list[Any]] = {}
        for output in self.outputs:
            values = outputs[output.name]
            if output.labels:
                given = values.tolist()
                texts = [one if isinstance(one, str) else output.labels[one] for one in given]
                columns[output.columns[0]] = texts
                continue
            parts = values.reshape(len(values), len(output.columns)).T
            columns |= {name: part.tolist() for name, part in zip(output.columns, parts, strict=True)}
        return columns


def description_of(exportable: Exportable) -> Description:
    """Return the description of a model to export."""
    return Description(VERSION, exportable.inputs, exportable.outputs, exportable.table)


def read_description(metadata: Mapping[str, str], file: str) -> Description:
    """Return the description in the metadata of a file.

    Raises:
        CheckpointError: When there is none, or it cannot be used.
    """
    text = metadata.get(ENTRY)
    if text is None:
        hint = "export the run again without export.bare; its data source must offer the preparation"
        if "hookline" not in metadata:
            hint = "use a file that hookline export has written"
        raise CheckpointError(f"{file} holds no preparation of its inputs, so no file can be read for it", hint=hint)
    try:
        found = msgspec.json.decode(text, type=Description) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        problem: str | None = str(error)
    else:
        problem = _problem_of(found)
    if problem or found is None:
        message = f"the description of the inputs in {file} cannot be used: {problem}"
        raise CheckpointError(message, hint="export the run again")
    return found


def _problem_of(description: Description | None) -> str | None:
    if description is None:
        return f"it has more than {_MAX_BYTES:,} characters"
    if description.version != VERSION:
        return f"its version is {description.version}, but this Hookline reads {VERSION}"
    for name, parts in (("inputs", description.inputs), ("outputs", description.outputs)):
        if not parts or len({part.name for part in parts}) != len(parts):
            return f"its {name} need different names, at least one"
    if any(not output.columns for output in description.outputs):
        return "an output needs a column"
    return None
