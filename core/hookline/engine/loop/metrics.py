"""Metrics: built by plugins, of some splits, each of one or several numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hookline.engine.errors import ContractError
from hookline.engine.plugin.host import Host
from hookline.engine.read_only import ReadOnly
from hookline.engine.reading.batch import brief
from hookline.engine.view import Metric

_METHODS = ("reset", "update", "compute")

MAX_METRICS = 100_000
"""With more, the record of a run would exceed the size that is read."""


def metrics_of(split: str, metrics: Mapping[str, Metric]) -> Mapping[str, Metric]:
    """Return the metrics of a split: those without ``splits``, or with that one among them."""
    return {name: metric for name, metric in metrics.items() if split in (getattr(metric, "splits", None) or (split,))}


def numbers_of(name: str, value: Any, class_names: Sequence[str] = ()) -> dict[str, float]:
    """Return the numbers of a metric: one of its name, or those of a mapping, a vector or a matrix by their places.

    A place has the name of its class if there is one for each.

    >>> import torch
    >>> numbers_of("recall", torch.tensor([1.0, 0.5]), ["cat", "dog"])
    {'recall/cat': 1.0, 'recall/dog': 0.5}
    """
    try:
        return {name: float(value)}
    except (TypeError, ValueError, RuntimeError) as error:
        parts = value.tolist() if hasattr(value, "tolist") else value  # one transfer
        if isinstance(parts, list | tuple):
            places = class_names if len(class_names) == len(parts) else range(len(parts))
            parts = dict(zip(places, parts, strict=True))
        if not (isinstance(parts, Mapping) and parts):
            message = f"the metric {name!r} returned {brief(value)}, but must return numbers"
            raise ContractError(message, hint="one, or a mapping, a vector or a matrix of them") from error
    named = (numbers_of(f"{name}/{place}", part, class_names) for place, part in parts.items())
    return {full: number for numbers in named for full, number in numbers.items()}


def build_metrics(host: Host, **arguments: Any) -> Mapping[str, Metric]:
    """Return the metrics of all plugins by name.

    Raises:
        ContractError: When a plugin returns anything but a mapping, or a name that exists already or is not valid text;
            or when there are too many.
    """
    metrics: dict[str, Metric] = {}
    for plugin, built in host.results("build_metrics", **arguments):
        if not isinstance(built, Mapping):
            raise ContractError(f"build_metrics of {plugin} returned {brief(built)}, but must return a mapping")
        for name, metric in built.items():
            if name in metrics or name in ("loss", "running_loss"):
                raise ContractError(f"{plugin} adds the metric {name!r}, which exists already")
            if missing := [method for method in _METHODS if not callable(getattr(metric, method, None))]:
                message = f"{plugin} adds the metric {name!r}, {brief(metric)} without a method {missing[0]!r}"
                raise ContractError(message, hint="a metric has reset(), update(prediction, target) and compute()")
            if not _is_text(name):
                raise ContractError(f"{plugin} adds the metric {name!r}, whose name is not text that a file can hold")
            metrics[name] = metric
        if len(metrics) > MAX_METRICS:
            raise ContractError(
                f"with {plugin} there are {len(metrics):,} metrics, but at most {MAX_METRICS:,} are possible"
            )
    return ReadOnly(metrics)


def _is_text(name: Any) -> bool:
    # Half of a surrogate pair, as in a file name that is not UTF-8, cannot be written.
    return isinstance(name, str) and name.encode(errors="ignore").decode() == name
