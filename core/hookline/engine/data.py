"""``DataSource``: the datasets that a run reads, and what a model may know of them; and inputs like theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.data import Dataset


@dataclass(frozen=True)
class DataSource:
    """Datasets whose items are ``(input, target)`` pairs of tensors.

    Shapes: an input is ``[I]`` and a target ``[O]`` (regression) or ``[]`` (a class index, int64); a batch puts ``[B]``
    in front. Floating-point tensors may have any floating dtype: the run casts them to its own.

    Attributes:
        train: What the model learns from.
        validation: What it is judged by while it learns.
        test: What it is judged by in the end.
        in_features: ``I``, the number of input features, at least 1; None where that means nothing.
        out_features: ``O``, the number of values that the model predicts for an example; for a classification the
            number of classes.
        feature_names: A name for each input feature, or empty.
        target_names: A name for each target, or empty.
        class_names: A name for each class in the order of the class indices, or empty.
        collate: Makes a batch of a list of items, for datasets whose items the default collation of ``DataLoader``
            does not take.
        kept: What ``build_predictor`` needs of these data to read new inputs as they were read: plain values, which
            are kept with a run.

    A dataset with a method ``gather(indices)`` gives each batch as a whole, for int64 ``[B]`` indices, without
    ``collate``. One with torch's ``__getitems__(indices)`` gives the items of a batch at once. A ``TensorDataset`` is
    batched by indexing its tensors, unless there is a ``collate``.

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
    collate: Callable[[list[Any]], Any] | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    def splits(self) -> dict[str, Dataset[Any]]:
        """Return the datasets that there are, by name, in the order train, validation, test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: dataset for name, dataset in named.items() if dataset is not None}


class Predictor(Protocol):
    """What turns a file into inputs of a trained model, and what that answers into columns.

    One that has an attribute ``writers``, a mapping from the ending of a file's name, such as ``".parquet"``, to a
    function ``(path, parts)``, writes other files than CSV: ``parts`` gives the columns of one batch after the other.
    """

    def read(self, path: Path, batch_size: int) -> Iterator[Any]:
        """Give the inputs that a file holds, in its order, in batches of ``batch_size`` but for the last.

        Raises:
            DataError: With every fault of the file, at the latest when its end is reached.
        """

    def columns(self, prediction: Any) -> Mapping[str, Sequence[Any]]:
        """Return what is predicted for the examples of a batch, by name, in the units of the data.

        Args:
            prediction: What the model gave, on the CPU: ``[B, O]``.

        Returns:
            Columns of ``B`` numbers or texts; their names are the same for each batch.
        """
