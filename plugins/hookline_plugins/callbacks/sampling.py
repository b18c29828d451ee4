"""Callbacks ``weighted-sampling`` and ``bucket-by-length``: the order of the training examples.

Both orders depend only on the run's seed and the epoch, so that a run can resume in the middle of one.

Shapes: ``N`` training examples, ``B`` of them in a batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import DataError, Fault, Location, hookimpl
from hookline.engine import did_you_mean
from hookline_plugins.data.columns import column, each
from hookline_plugins.metrics.answers import IGNORED, task_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource, RunView


@dataclass
class WeightedSampling:
    """Sampling with replacement, with a probability proportional to the weight of each example.

    Without given weights the classes are balanced: the weight of an example is one over the number of training
    examples of its class, or 0 if its target does not count in the loss. The loss or the data source declares that the
    targets are classes, by ``task``. An example drawn several times in an epoch is read, and augmented, each time.
    """

    path: Annotated[Path | None, Meta(description=".npy file with one weight >= 0 per training example")] = None
    feature: Annotated[str, Meta(description="input feature that holds the weights; empty: none")] = ""
    num_samples: Annotated[int, Meta(ge=0, description="examples drawn per epoch; 0: size of the training data")] = 0

    def __post_init__(self) -> None:
        if self.path and self.feature:
            raise ValueError("`path` and `feature` cannot both be given: both hold the weights")

    @hookimpl
    def build_order(self, run: RunView, data: DataSource) -> Callable[[int], Tensor]:
        """Return the order: a new draw for each epoch."""
        import torch

        num_examples = _num_examples(data, "weighted-sampling")
        weights = self._weights(run, data, num_examples)
        bounds = weights.cumsum(0)
        last = int(weights.nonzero()[-1])
        num_samples = self.num_samples or num_examples

        def order(epoch: int) -> Tensor:
            # Not torch.multinomial, which is limited to 2**24 examples.
            generator = run.generator(f"weighted-sampling {epoch}")
            drawn = torch.rand(num_samples, dtype=torch.float64, generator=generator) * bounds[-1]
            return torch.searchsorted(bounds, drawn, right=True).clamp_(max=last)

        return order

    def _weights(self, run: RunView, data: DataSource, num_examples: int) -> Tensor:
        """Return the weights, float64 ``[N]``.

        Raises:
            DataError: When they are not valid weights of the training examples.
        """
        if self.path:
            weights, source = _array(self.path), str(self.path)
        elif self.feature:
            weights, source = self._feature(data), f"the feature {self.feature!r}"
        else:
            return _balanced(run, data)
        faults = []
        if weights.dim() != 1 or len(weights) != num_examples:
            faults.append(
                f"the weights have shape {list(weights.shape)}, expected [{num_examples}], one per training example"
            )
        bad = (~(weights.isfinite() & (weights >= 0))).flatten().nonzero()
        if len(bad):
            row = int(bad[0])
            faults.append(f"weight {row} is {float(weights.flatten()[row]):g}; {len(bad)} in all are not valid weights")
        elif not weights.sum() > 0:
            faults.append("all weights are 0")
        if faults:
            place = Location(source)
            hint = "give one finite number >= 0 for each example of the training split"
            raise DataError("the weights cannot be used", faults=[Fault(text, place) for text in faults], hint=hint)
        return weights

    def _feature(self, data: DataSource) -> Tensor:
        if self.feature not in data.feature_names:
            hint = did_you_mean(self.feature, data.feature_names)
            raise DataError(f"there is no feature {self.feature!r} for the weights of weighted-sampling", hint=hint)
        number = data.feature_names.index(self.feature)
        return column(data, lambda example: example[0][..., number]).double()


@dataclass
class BucketByLength:
    """Batches of examples of similar length, which need little padding.

    The examples are shuffled and cut into pools of ``pool_batches`` batches. Each pool is sorted by length and cut into
    batches, and the batches of all pools are shuffled. The remaining examples are the last batch. So batches differ
    from epoch to epoch, and more so with smaller pools.

    A dataset may have an attribute ``lengths`` with the length of each example. If not, every example is read once when
    the run is built, and its length is that of the input, or of the first value of an input that is a mapping.

    The default ``pool_batches`` is that of ``LengthGroupedSampler`` in Hugging Face Transformers.
    """

    pool_batches: Annotated[int, Meta(ge=1, description="number of batches sorted by length together")] = 50

    @hookimpl
    def build_order(self, run: RunView, data: DataSource) -> Callable[[int], Tensor]:
        """Return the order: new batches for each epoch."""
        import torch

        num_examples = _num_examples(data, "bucket-by-length")
        lengths = _lengths(data, num_examples)
        if bool((lengths == lengths[0]).all()):
            run.warn(f"all training examples have length {int(lengths[0])}, so bucket-by-length has no effect")
        batch_size = run.config.train.batch_size
        size = num_examples if batch_size == "all" else min(batch_size, num_examples)

        def order(epoch: int) -> Tensor:
            generator = run.generator(f"bucket-by-length {epoch}")
            shuffled = torch.randperm(num_examples, generator=generator)
            num_batches = num_examples // size
            whole, rest = shuffled[: num_batches * size], shuffled[num_batches * size :]
            pools = [pool[lengths[pool].argsort(stable=True)] for pool in torch.split(whole, size * self.pool_batches)]
            batches = torch.cat(pools).reshape(num_batches, size)
            return torch.cat([batches[torch.randperm(num_batches, generator=generator)].flatten(), rest])

        return order


def _num_examples(data: DataSource, name: str) -> int:
    try:
        return len(data.train)  # type: ignore[arg-type] # not every Dataset has a length
    except TypeError as error:
        raise DataError(f"{name} needs training data with a length, not a stream") from error


def _balanced(run: RunView, data: DataSource) -> Tensor:
    """Return for each example one over the number of examples of its class; 0 if its target does not count.

    Raises:
        DataError: When the targets are not classes.
    """
    import torch

    loss: Any = next(member for member in run.members if member.plugin.kind == "loss")
    task = task_of(loss.plugin.target, data)
    hint = "set `task` of the DataSource or of the loss; or give weights with `path` or `feature`"
    if task is None:
        raise DataError("weighted-sampling balances classes, but nothing declares that the targets are", hint=hint)
    targets = column(data, operator.itemgetter(1))
    targets = targets.squeeze(1) if targets.dim() == 2 and targets.shape[1] == 1 else targets
    classes, counts = torch.unique(targets, return_inverse=True, return_counts=True)[1:]
    is_classes = task == "classification" and not targets.is_floating_point()
    if targets.dim() != 1 or not (is_classes or (task == "binary" and len(counts) <= 2)):
        hint = "use targets that are class indices [], or 0 and 1; or give weights with `path` or `feature`"
        raise DataError("weighted-sampling balances classes, but the targets are not classes", hint=hint)
    weights: Tensor = (1 / counts.double())[classes]
    return weights * (targets != getattr(loss.instance, "ignore_index", IGNORED))


def _array(path: Path) -> Tensor:
    import numpy as np
    import torch

    try:
        array = np.load(path, allow_pickle=False)
        return torch.from_numpy(np.asarray(array, dtype=np.float64))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"the weights in {path} cannot be read: {error}", hint="save them with numpy.save") from error


def _lengths(data: DataSource, num_examples: int) -> Tensor:
    """Return the length of each training example, ``[N]``."""
    import torch
    from torch.utils.data import TensorDataset

    given = getattr(data.train, "lengths", None)
    if type(data.train) is TensorDataset:
        shape = data.train.tensors[0].shape
        lengths = torch.full((num_examples,), shape[1] if len(shape) > 1 else 1)
    elif given is None:
        lengths = each(data.train, _length)
    else:
        lengths = torch.as_tensor(given)
    if lengths.shape != (num_examples,):
        message = f"the lengths have shape {list(lengths.shape)}, expected [{num_examples}], one per training example"
        raise DataError(message, hint="give `lengths` one number per example")
    return lengths


def _length(example: Any) -> int:
    inputs = example[0] if isinstance(example, tuple | list) else example
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)
