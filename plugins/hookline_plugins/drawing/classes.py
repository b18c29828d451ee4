"""Sections about a classification: confusion matrix, scores of each class, ROC, precision and recall, calibration.

Shapes: ``N`` answers, ``C`` classes, ``T`` thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from hookline.sections import Curves, Matrix, Section, Series, Table

if TYPE_CHECKING:
    from torch import Tensor

    from hookline_plugins.metrics.answers import Answers

_MAX_CLASSES = 100
"""Number of classes of a matrix and a table; with more, as of tokens, only the calibration is drawn."""
_MAX_LINES = 10
_MAX_POINTS = 400
_NUM_BINS = 10
"""Bins of a calibration, as in scikit-learn's examples of ``calibration_curve``."""

_SCORES = (
    "precision tp / (tp + fp), recall tp / (tp + fn), F1 2 tp / (2 tp + fp + fn), with 0 for 0 / 0: "
    "https://scikit-learn.org/stable/modules/model_evaluation.html"
)
_ROC = (
    "T. Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27 (2006); AUC by the trapezoidal rule."
)
_PR = "AP is the sum of (R_n - R_(n-1)) P_n over the thresholds, as in scikit-learn's average_precision_score."
_CALIBRATION = (
    "Ten bins of equal width; ECE is the mean difference between frequency and probability, weighted by the answers of "
    "a bin: C. Guo et al., On calibration of modern neural networks, ICML (2017)."
)


class Ranked(NamedTuple):
    """Answers for one class, one against the rest: the score of each, float64 ``[N]``, and whether it is right."""

    name: str
    scores: Tensor
    is_true: Tensor


def class_sections(
    prediction: Tensor, target: Tensor, answers: Answers, class_names: Sequence[str], split: str
) -> list[Section]:
    """Return the sections about the answers of a classification."""
    if answers.is_binary:
        probabilities, true = _binary(prediction.double(), target, answers)
        size = 2
    else:
        rows, true = answers.rows(prediction, target)
        probabilities, size = rows.double().softmax(1), rows.shape[1]
    if not len(true):
        return []
    confidence, chosen = probabilities.max(1)
    names = [*map(str, class_names[:size]), *map(str, range(len(class_names), size))]
    if size == 2:
        calibration = _calibration(probabilities[:, 1], true == 1, f"probability of {names[1]}", split)
    else:
        calibration = _calibration(confidence, chosen == true, "probability of the chosen class", split)
    if size > _MAX_CLASSES:
        return [calibration]
    counts = (true * size + chosen).bincount(minlength=size * size).view(size, size)
    ranked = _ranked(probabilities, true, names)
    return [
        Matrix(
            title=f"Confusion matrix, {split}",
            row_labels=names,
            column_labels=names,
            counts=counts.tolist(),
            row_title="true",
            column_title="predicted",
        ),
        _table(counts.double(), names, split),
        _curves(ranked, roc_curve, ("false positive rate", "true positive rate"), f"ROC, {split}", "AUC", _ROC),
        _curves(ranked, pr_curve, ("recall", "precision"), f"Precision and recall, {split}", "AP", _PR),
        calibration,
    ]


def roc_curve(scores: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return false and true positive rates ``[T]`` for falling thresholds, and the area under the curve.

    >>> roc_curve(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))[2]
    0.75
    """
    true, false = _counts(scores, is_true)
    zero = torch.zeros(1, dtype=torch.float64)
    y, x = torch.cat([zero, true / true[-1]]), torch.cat([zero, false / false[-1]])
    return x, y, float(torch.trapezoid(y, x))


def pr_curve(scores: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return recall and precision ``[T]`` for falling thresholds, and the average precision.

    >>> round(pr_curve(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))[2], 6)
    0.833333
    """
    true, false = _counts(scores, is_true)
    recall, precision = true / true[-1], true / (true + false)
    steps = recall.diff(prepend=torch.zeros(1, dtype=torch.float64))
    start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x, y = torch.cat([start[:1], recall]), torch.cat([start[1:], precision])
    return x, y, float((steps * precision).sum())


def calibration_curve(probabilities: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return mean probability and frequency of each of ten bins that has answers, and the calibration error."""
    edges = torch.linspace(0, 1, _NUM_BINS + 1, dtype=torch.float64)[1:-1]
    bins = torch.bucketize(probabilities.contiguous(), edges)
    counts = bins.bincount(minlength=_NUM_BINS).double()
    there = counts > 0
    mean, frequency = (
        bins.bincount(weights=values.double(), minlength=_NUM_BINS)[there] / counts[there]
        for values in (probabilities, is_true)
    )
    error = ((mean - frequency).abs() * counts[there]).sum() / counts.sum()
    return mean, frequency, float(error)


def _counts(scores: Tensor, is_true: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of right and of wrong answers with at least each score, from the highest, float64 ``[T]``."""
    order = scores.argsort(descending=True, stable=True)
    ordered, right = scores[order], is_true[order].double()
    is_last = torch.ones_like(right, dtype=torch.bool)
    is_last[:-1] = ordered[:-1] != ordered[1:]
    true = right.cumsum(0)[is_last]
    number = torch.arange(1, len(right) + 1, dtype=torch.float64)[is_last]
    return true, number - true


def _binary(prediction: Tensor, target: Tensor, answers: Answers) -> tuple[Tensor, Tensor]:
    """Return the probabilities of 0 and 1, float64 ``[N, 2]``, and the true answers, int64 ``[N]``."""
    ones = (prediction if answers.threshold else prediction.sigmoid()).flatten()
    return torch.stack([1 - ones, ones], dim=1), (target > 0.5).long().flatten()


def _ranked(probabilities: Tensor, true: Tensor, names: Sequence[str]) -> list[Ranked]:
    """Return the most frequent classes, each against the rest; of two classes the second alone."""
    size = probabilities.shape[1]
    order = [1] if size == 2 else true.bincount(minlength=size).argsort(descending=True, stable=True).tolist()
    found = (Ranked(names[index], probabilities[:, index], true == index) for index in order)
    # Without both kinds of answers there is no rate.
    return [one for one in found if one.is_true.any() and not one.is_true.all()][:_MAX_LINES]


def _curves(
    ranked: Sequence[Ranked], measure: object, labels: tuple[str, str], title: str, area: str, source: str
) -> Section:
    assert callable(measure), "it is one of the functions above"
    series = []
    for one in ranked:
        x, y, value = measure(one.scores, one.is_true)
        series.append(_line(f"{one.name} ({area} {value:.3f})", x, y))
    return Curves(
        title=title,
        series=series,
        x_label=labels[0],
        y_label=labels[1],
        is_trace=False,
        has_diagonal=area == "AUC",
        note=source,
    )


def _line(name: str, x: Tensor, y: Tensor) -> Series:
    if len(x) > _MAX_POINTS:
        chosen = torch.linspace(0, len(x) - 1, _MAX_POINTS).round().long()
        x, y = x[chosen], y[chosen]
    return Series(name=name, steps=x.tolist(), values=y.tolist())


def _table(counts: Tensor, names: Sequence[str], split: str) -> Section:
    right, predicted, actual = counts.diagonal(), counts.sum(0), counts.sum(1)
    scores = [right / predicted, right / actual, 2 * right / (predicted + actual)]
    columns = [score.nan_to_num(nan=0.0).tolist() for score in scores]
    rows = [list(row) for row in zip(names, *columns, map(int, actual.tolist()), strict=True)]
    rows.append(
        ["mean over the classes", *(float(torch.tensor(column).mean()) for column in columns), int(actual.sum())]
    )
    return Table(
        title=f"Scores of each class, {split}",
        columns=["class", "precision", "recall", "F1", "examples"],
        rows=rows,
        note=_SCORES,
    )


def _calibration(probabilities: Tensor, is_true: Tensor, label: str, split: str) -> Section:
    x, y, error = calibration_curve(probabilities, is_true)
    return Curves(
        title=f"Calibration, {split}",
        series=[Series(name=f"frequency (ECE {error:.3f})", steps=x.tolist(), values=y.tolist())],
        x_label=label,
        y_label="frequency",
        is_trace=False,
        has_diagonal=True,
        note=_CALIBRATION,
    )
