"""Weights of classes by their rarity in the training data: ``weight = "balanced"``, ``pos_weight = "balanced"``.

They are part of the saved weights of a run: a run that resumes or is evaluated does not count again, whatever its data
are. ``uncounted_classes`` and ``uncounted_answers`` give tensors to load them into.

Shapes: ``N`` targets, ``C`` classes, ``O`` answers for an example.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from hookline import DataError
from hookline_plugins.data.columns import column

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource

_WEIGHT, _POS_WEIGHT = 'loss.weight = "balanced"', 'loss.pos_weight = "balanced"'


def uncounted_classes(data: DataSource) -> Tensor:
    """Return a weight of 1 for each class, float32 ``[C]``.

    Raises:
        DataError: When the number of classes is unknown.
    """
    import torch

    if data.out_features is None:
        raise DataError(f"{_WEIGHT} needs the number of classes", hint="give the DataSource its out_features")
    return torch.ones(data.out_features)


def balanced_classes(data: DataSource, ignored: int | None) -> Tensor:
    """Return the weight of each class ``c``, ``N / (C N_c)``, float32 ``[C]``, from the targets that count.

    Source: ``class_weight="balanced"`` of scikit-learn,
    https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html, after
    G. King and L. Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9 (2001).

    Raises:
        DataError: When the data are a stream, or the targets are not classes, or a class does not occur.
    """
    num_classes = len(uncounted_classes(data))
    _check_no_stream(data, _WEIGHT)
    targets = column(data, operator.itemgetter(1)).flatten()
    counted = targets if ignored is None else targets[targets != ignored]
    wrong = counted[(counted < 0) | (counted >= num_classes)]
    if targets.is_floating_point() or wrong.numel():
        got = f"one is {int(wrong[0])}" if wrong.numel() else f"they are {targets.dtype}".replace("torch.", "")
        message = f"{_WEIGHT} needs targets that are class indices, int64 from 0 to {num_classes - 1}, but {got}"
        raise DataError(message, hint="give one number for each class instead: loss.weight = [...]")
    counts = counted.bincount(minlength=num_classes).double()
    if missing := (counts == 0).nonzero().flatten().tolist():
        names = ", ".join(repr(data.class_names[c]) if data.class_names else str(c) for c in missing[:10])
        message = f"{_WEIGHT} needs examples of each class, but the training data have none of class {names}"
        raise DataError(message, hint="give one number for each class instead: loss.weight = [...]")
    return (counts.sum() / (num_classes * counts)).float()


def uncounted_answers(data: DataSource) -> Tensor:
    """Return a factor of 1 for each output, of the form of ``balanced_answers``."""
    import torch

    return torch.ones(_shape(_answers(data, 1)))


def balanced_answers(data: DataSource) -> Tensor:
    """Return the factor on targets of 1, ``N_0 / N_1``, for each output, float32 ``[O]`` with a 1 for further sizes.

    With it, the examples of 0 and of 1 weigh the same in all, as in ``balanced_classes``. In targets ``[B]``, all are
    of one output.

    Raises:
        DataError: When the data are a stream, or the targets are not 0 and 1, or one of them does not occur.
    """
    targets = _answers(data, None)
    wrong = targets[(targets != 0) & (targets != 1)]
    hint = "give one number for each output instead: loss.pos_weight = [...]"
    if wrong.numel():
        raise DataError(f"{_POS_WEIGHT} needs targets of 0 and 1, but one is {float(wrong[0]):g}", hint=hint)
    of_output = targets.transpose(0, 1).flatten(1).double()
    ones = of_output.sum(1)
    zeros = of_output.shape[1] - ones
    for value, counts in ((0, zeros), (1, ones)):
        if missing := (counts == 0).nonzero().flatten().tolist():
            where = f" in output {missing[0]}" if len(counts) > 1 else ""
            message = f"{_POS_WEIGHT} needs targets of 0 and 1, but the training data have no {value}{where}"
            raise DataError(message, hint=hint)
    return (zeros / ones).float().reshape(_shape(targets))


def _answers(data: DataSource, stop: int | None) -> Tensor:
    """Return the training targets, or the first ones, ``[N, O, ...]``."""
    _check_no_stream(data, _POS_WEIGHT)
    targets = column(data, operator.itemgetter(1), stop)
    return targets.unsqueeze(1) if targets.dim() == 1 else targets


def _shape(targets: Tensor) -> tuple[int, ...]:
    return (targets.shape[1], *[1] * (targets.dim() - 2))


def _check_no_stream(data: DataSource, option: str) -> None:
    from torch.utils.data import IterableDataset

    if isinstance(data.train, IterableDataset):
        hint = f"give the numbers: {option.partition(' ')[0]} = [...]"
        raise DataError(f"{option} has to count the training data, but they are a stream", hint=hint)
