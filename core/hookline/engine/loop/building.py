"""The components of a run, made by its plugins and checked as they come."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.data import DataSource
from hookline.engine.errors import ContractError
from hookline.engine.hookspecs import Metric
from hookline.engine.loop.batch import brief
from hookline.engine.loop.batches import Batches
from hookline.engine.loop.first_batch import try_what_fits
from hookline.engine.loop.step import LossFunction
from hookline.engine.plugin.host import Host
from hookline.engine.train_options import TrainOptions
from hookline.engine.words import with_article

Read = Callable[..., Iterator[Any]]

_MAX_METRICS = 100_000
"""With more, the record of a run would be larger than any that is read."""


def build_component(host: Host, kind: str, expected: Any, **arguments: Any) -> Any:
    """Return what the build hook of a kind gives.

    Raises:
        ContractError: When that is nothing, or not of the ``expected`` type.
    """
    built = host.first_result(f"build_{kind}", **arguments)
    if built is None:
        hint = "does the hook end without a return?"
        raise ContractError(f"build_{kind} of {host.owner(kind)} returned nothing", hint=hint)
    if not isinstance(built, expected):
        message = f"build_{kind} of {host.owner(kind)} returned {with_article(type(built).__name__)}"
        wrap = "wrap a dataset: hookline.DataSource(train=dataset, in_features=..., out_features=...)"
        advice = wrap if expected is DataSource else None
        raise ContractError(f"{message}, but must return {with_article(expected.__name__)}", hint=advice)
    return built


def build_metrics(host: Host, **arguments: Any) -> Mapping[str, Metric]:
    """Return the metrics of all plugins by name.

    Raises:
        ContractError: When a plugin gives no mapping, a name that is there already or is no text, or far too many.
    """
    metrics: dict[str, Metric] = {}
    for plugin, built in host.results("build_metrics", **arguments):
        if not isinstance(built, Mapping):
            raise ContractError(f"build_metrics of {plugin} returned {brief(built)}, but must return metrics by name")
        for name, metric in built.items():
            if name in metrics or name in ("loss", "running_loss"):
                raise ContractError(f"{plugin} brings the metric {name!r}, which is there already")
            if not _is_text(name):
                raise ContractError(f"{plugin} names a metric {name!r}, which is no text that a file can hold")
            metrics[name] = metric
        if len(metrics) > _MAX_METRICS:
            raise ContractError(f"with {plugin} there are {len(metrics):,} metrics; a run takes {_MAX_METRICS:,}")
    return MappingProxyType(metrics)


def _is_text(name: Any) -> bool:
    # Half of a surrogate pair, as in the name of a file that is no UTF-8, cannot be written.
    return isinstance(name, str) and name.encode(errors="ignore").decode() == name


def build_batches(
    data: DataSource,
    options: TrainOptions,
    order: Callable[[int], Tensor] | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    owner: str,
) -> tuple[Batches, dict[str, Batches]]:
    """Return the batches of the training split, and those of each split that is evaluated.

    Args:
        data: The data source.
        options: The loop's options.
        order: What gives the order of the training examples; None for a random one.
        dtype: What floating-point tensors are cast to.
        device: Where the batches are to be.
        owner: What the data plugin is called in messages.
    """
    make = functools.partial(
        Batches,
        dtype=dtype,
        device=device,
        num_workers=options.num_workers,
        worker_timeout_s=options.worker_timeout_s,
        collate=data.collate,
        item_seed=options.seed,
    )
    size = None if options.batch_size == "all" else options.batch_size
    seed = options.seed if options.shuffle else None
    training = make(data.train, size, seed=seed, name=f"train split of {owner}", order=order)
    splits = data.splits()
    evaluated: dict[str, Batches] = {
        split: make(splits[split], options.eval_batch_size, seed=None, name=f"{split} split of {owner}")
        for split in dict.fromkeys(options.evaluate)
        if split in splits and not (split == "train" and training.num_batches is None)
    }
    return training, evaluated


def try_first_batches(
    splits: Mapping[str, Batches],
    read: Read,
    model: nn.Module,
    loss: LossFunction,
    host: Host,
    micro_batch_size: int = 0,
) -> None:
    """Put the first batch of each split through model and loss; the errors are those of ``try_batch``.

    Of a training batch as much as goes through the model at once in a step.
    """
    names = {kind: str(host.owner(kind)) for kind in ("data", "model", "loss")}
    for split, batches in splits.items():
        batch = next(read(split, batches, epoch=1), None)
        names["data"] = f"the {split} split of {host.owner('data')}"
        try_what_fits(batch, model, loss, names, micro_batch_size if split == "train" else 0)


# ---- state of a wrapped model ----------------------------------------------------------------------------------------


def state_of_wrappers(model: nn.Module, unwrapped: nn.Module) -> dict[str, Any]:
    """Return what wrappers have added to the state of a model, by the names that they give it."""
    if model is unwrapped:
        return {}
    inner = unwrapped.state_dict(keep_vars=True)
    around, ids = model.state_dict(keep_vars=True), set(map(id, inner.values()))
    return {name: value for name, value in model.state_dict().items() if id(around[name]) not in ids}


def load_state_of_wrappers(model: nn.Module, unwrapped: nn.Module, state: Mapping[str, Any]) -> None:
    """Take up what ``state_of_wrappers`` gave.

    Raises:
        ValueError: When the wrappers are others.
    """
    if strange := sorted(state.keys() ^ state_of_wrappers(model, unwrapped).keys()):
        raise ValueError(f"the wrappers of the model differ in {', '.join(strange)}")
    model.load_state_dict(state, strict=False)
