"""``DataSource``: the datasets of a run and the facts about them that a model may use; ``Predictor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.utils.data import Dataset


STANDARD_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataSource:
    """Datasets whose items are pairs ``(input, target)``, or mappings with an entry for the target.

    Input and target are tensors, or nested mappings, tuples or dataclasses of tensors. Shapes: an input is ``[I]`` and
    a target ``[O]`` (regression) or ``[]`` (a class index, int64); a batch adds ``B`` in front. Floating-point tensors
    may have any floating dtype: the run casts them to its dtype.

    Attributes:
        train: The training split.
        validation: The split to evaluate during training.
        test: The split to evaluate at the end.
        more_splits: Further splits to evaluate, by name; a name is text without a slash.
        in_features: ``I``, the number of input features, at least 1; None if there is no such number.
        out_features: ``O``, the number of values predicted for an example; for a classification the number of classes.
            A run fills in a size that is None if an example has it: a vector of floating-point numbers.
        feature_names: Names of the input features, or empty.
        target_names: Names of the targets, or empty.
        class_names: Names of the classes in the order of the class indices, or empty.
        task: Meaning of the targets: numbers (``regression``), class indices (``classification``), or 0 and 1
            (``binary``); None: only the loss knows.
        collate: Makes a batch from a list of items; needed for items that ``default_collate`` does not accept.
        target: Name of the entry of a batch that is its target, in batches that are mappings.
        kept: Plain values that ``build_predictor`` needs to read new inputs in the same way, such as a scale; saved
            with the run.
        unscale: Maps targets and predictions, tensors ``[B, O]``, to the units of the data, in which metrics are
            reported; None: they are in these units.

    A dataset with a method ``gather(indices)`` returns whole batches, for int64 indices ``[B]``, without ``collate``.
    One with torch's ``__getitems__(indices)`` returns all items of a batch at once. A stream with a method
    ``batches(batch_size)`` makes its batches itself. A ``TensorDataset`` is batched by indexing its tensors, unless
    there is a ``collate``. A dataset with an attribute ``draws = False`` declares that reading it draws no random
    numbers, which saves watching for them. One with a method ``origins(indices)`` says where its examples come from: it
    returns columns by name for a list of indices, such as ``{"row": [3, 17]}``; rows count from 0.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = DataSource(TensorDataset(torch.zeros(8, 2), torch.zeros(8, 1)), in_features=2, out_features=1)
        >>> list(data.splits())
        ['train']
    """

    train: Dataset[Any]
    validation: Dataset[Any] | None = None
    test: Dataset[Any] | None = None
    in_features: int | None = None
    out_features: int | None = None
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    task: Literal["regression", "classification", "binary"] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    target: str = "labels"
    kept: Mapping[str, Any] = field(default_factory=dict)
    unscale: Callable[[Tensor], Tensor] | None = None
    more_splits: Mapping[str, Dataset[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.more_splits:
            if not name or "/" in name or name in (*STANDARD_SPLITS, "logged"):
                raise ValueError(f"the name {name!r} of a split must be text without '/', and no other split's")

    def splits(self) -> dict[str, Dataset[Any]]:
        """Return the existing splits by name, in the order train, validation, test, and then the others."""
        named = {name: getattr(self, name) for name in STANDARD_SPLITS} | dict(self.more_splits)
        return {name: dataset for name, dataset in named.items() if dataset is not None}


@runtime_checkable
class Predictor(Protocol):
    """Turns a file into inputs of a trained model, and its predictions into columns.

    With an attribute ``writers`` it can write other files than CSV: a mapping from a file extension, such as
    ``".parquet"``, to a function ``(path, parts)``, where ``parts`` yields the columns of each batch. With a method
    ``beside()`` it can put columns of the file, such as an identifier, before those of the predictions: it is called
    after each batch of ``read``, and returns the columns of that batch by name. With a method
    ``predict(model, inputs, batch_size, *, probabilities)`` it predicts for arrays or frames, too: it passes batches of
    prepared inputs to the function ``model``, and returns an array of predictions in the units of the data, or of the
    probabilities of the classes. With a method ``exportable(model)`` exports hold the preparation of the inputs: it
    gets the trained model, a module that takes prepared inputs and returns the prediction, and returns a
    ``hookline.trained.Exportable``. With an attribute ``feature_columns`` it says which input features stem from one
    column of the data: the name of the column of each; if the inputs are a mapping, a list of names for each of its
    entries that is a vector.
    """

    def read(self, path: Path, batch_size: int) -> Iterator[Any]:
        """Yield the inputs in a file in their order, in batches of ``batch_size``; the last may be smaller.

        Raises:
            DataError: With every fault of the file, at the latest at its end.
        """

    def columns(self, prediction: Any) -> Mapping[str, Sequence[Any]]:
        """Return the predictions for the examples of a batch by name, in the units of the data.

        Args:
            prediction: Output of the model, on the CPU: ``[B, O]``.

        Returns:
            Columns of ``B`` numbers or texts; their names are the same for each batch.
        """
