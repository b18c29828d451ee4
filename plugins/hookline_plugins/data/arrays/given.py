"""Data source ``from-arrays``: inputs and targets that a program has in memory.

Shapes: ``N`` rows, ``I`` input features, ``O`` targets, ``C`` classes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from hookline import DataError, DataSource, hookimpl
from hookline.engine import did_you_mean
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.splits import Fold, FoldSeed, check_fold

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Predictor, RunView


_Share = Annotated[float, Meta(ge=0, lt=1)]


@dataclass
class FromArrays:
    """Arrays or frames of a program, given with ``hookline.from_arrays``.

    Inputs are ``[N, I]``, or ``[N, ...]`` of any shape; ``[N]`` is read as ``[N, 1]``. Targets are numbers ``[N, O]``,
    where ``[N]`` is read as ``[N, 1]``, or labels ``[N]``, which become class indices in their sorted order.

    Each split keeps the order of the rows. Means and standard deviations are those of the training split, with ``N`` in
    the denominator. Predictions are labels, or numbers in the units of the targets.
    """

    validation: Annotated[_Share, Meta(description="share of the rows for the validation split")] = 0.0
    test: Annotated[_Share, Meta(description="share of the rows for the test split")] = 0.0
    shuffle: Annotated[
        bool, Meta(description="choose the rows of the splits by the seed of the run; false: the last rows")
    ] = True
    stratify: Annotated[bool, Meta(description="keep the shares of the classes in each split, if it is shuffled")] = (
        True
    )
    fold: Fold = ""
    fold_seed: FoldSeed = 0
    task: Annotated[
        Literal["auto", "regression", "classification", "binary"],
        Meta(description="how to treat the targets; auto: floating-point numbers as numbers, all others as labels"),
    ] = "auto"
    float_inputs: Annotated[bool, Meta(description="convert integer and boolean inputs to floating point")] = True
    standardize: Annotated[bool, Meta(description="scale inputs [N, I] to mean 0 and standard deviation 1")] = False
    standardize_target: Annotated[bool, Meta(description="scale the targets of a regression in the same way")] = False

    given: ClassVar[dict[str, tuple[Any, Any]]] = {}
    """Inputs and targets by split."""

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"`validation` and `test` leave no rows to train on: {self.validation:g} + {self.test:g}")
        check_fold(self.fold)
        if self.standardize_target and self.task in ("classification", "binary"):
            raise ValueError(f"`standardize_target` is for numbers, not for task = {self.task!r}")

    @hookimpl
    def build_data(self, run: RunView) -> DataSource:
        """Read and split the arrays."""
        if not self.given:
            hint = "pass them to train or resume: plugins={'data': hookline.from_arrays(inputs, targets)}"
            raise DataError("the arrays of from-arrays are in no file, so a config cannot name them", hint=hint)
        from hookline_plugins.data.arrays.in_memory import build_source

        return build_source(self, run.generator("split") if self.shuffle else None)

    @hookimpl
    def build_predictor(self, data: DataSource) -> Predictor:
        """Read new inputs like those of the training."""
        from hookline_plugins.data.arrays.predictor import ArrayPredictor
        from hookline_plugins.data.forms import as_inputs

        form = functools.partial(as_inputs, is_float=self.float_inputs)
        return ArrayPredictor(data, "inputs", form, self._first_rows)

    def _first_rows(self, count: int) -> Tensor:
        """Return rows of the training inputs.

        Raises:
            DataError: If the program has not given them.
        """
        from hookline_plugins.data.forms import as_tensor
        from hookline_plugins.data.rows import read_numbers

        faults = Faults(None)
        read = read_numbers(self.given["train"][0], "the inputs", faults, ()) if self.given else None
        if read is None:
            faults.stop("the training data are not given")
        return as_tensor(read.values[:count])


def from_arrays(inputs: Any, targets: Any, **options: Any) -> type[FromArrays]:
    """Return the data source of these arrays, a plugin class; see ``hookline.from_arrays``.

    Raises:
        TypeError: If there is no such option.
        ValueError: If an option has no such value.
    """
    given = {"train": (inputs, targets)}
    for split in ("validation", "test"):
        if isinstance(options.get(split), tuple | list):
            given[split] = _pair(split, options.pop(split))
    known = [field.name for field in fields(FromArrays)]
    if unknown := next((name for name in options if name not in known), None):
        raise TypeError(f"from_arrays has no option {unknown!r}: {did_you_mean(unknown, known)}")
    try:
        msgspec.convert(options, FromArrays)
    except msgspec.ValidationError as error:
        raise ValueError(f"from_arrays: {error}") from None
    # A class with these defaults, and not an object, so that a config can change them and the record has them.
    hints = {name: FromArrays.__annotations__[name] for name in options}
    names = {"__module__": __name__, "__doc__": FromArrays.__doc__, "__annotations__": hints}
    return dataclass(type("from-arrays", (FromArrays,), {**names, **options, "given": given}))


def _pair(split: str, arrays: Any) -> tuple[Any, Any]:
    if len(arrays) != 2:
        raise ValueError(
            f"from_arrays: `{split}` takes a share of the rows, or (inputs, targets), not {len(arrays)} arrays"
        )
    return arrays[0], arrays[1]
