"""The part of a script that no plugin writes: the data as arrays, and the options of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline import Fault
from hookline.engine import Forward, weight_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import RunView

_PIECE_BYTES = 2**26
"""The core gathers an epoch in pieces of this size. The place of a batch in memory may affect how kernels round."""


@dataclass(frozen=True)
class Job:
    """What a script trains on, and how.

    Attributes:
        arrays: Inputs and targets of each split, as ``train.inputs``.
        evaluated: The splits to evaluate.
        batch_size: Examples of a step.
        piece: Number of examples to gather at once, rounded to whole batches; 0 for all.
        num_threads: Number of threads of torch in the run.
    """

    arrays: Mapping[str, Tensor]
    evaluated: tuple[str, ...]
    batch_size: int
    piece: int
    num_threads: int


def job_of(run: RunView, num_threads: int) -> Job:
    """Return the data and the sizes of a run without faults."""
    import torch

    train = run.config.train
    dtype = getattr(torch, train.dtype)
    splits: Mapping[str, Any] = run.data.splits()
    wanted = list(splits) if train.evaluate == "all" else list(dict.fromkeys(train.evaluate))
    evaluated = tuple(name for name in wanted if name in splits) if train.evaluate_every_epochs else ()
    arrays = {}
    for split in dict.fromkeys(["train", *evaluated]):
        for name, tensor in zip(("inputs", "targets"), splits[split].tensors, strict=True):
            values = tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()
            arrays[f"{split}.{name}"] = values.clone(memory_format=torch.contiguous_format)
    num = len(arrays["train.inputs"])
    size = num if train.batch_size == "all" else min(train.batch_size, num)
    row = sum(arrays[name][0].numel() * arrays[name].element_size() for name in ("train.inputs", "train.targets"))
    piece, largest = _PIECE_BYTES // max(row, 1), max(map(len, arrays.values()))
    piece = piece if piece < largest + max(size, train.eval_batch_size) else 0
    return Job(arrays, evaluated, size, piece, num_threads)


def job_faults(run: RunView) -> Iterator[Fault]:
    """Yield what a script cannot do of the data and of the options of the loop."""
    from torch.utils.data import TensorDataset

    train = run.config.train
    if run.device.type != "cpu":
        yield Fault(f"train.device: the run was on {run.device}", hint="a script is for the CPU: train with device=cpu")
    if run.ranks.world_size > 1:
        yield Fault(f"the run has {run.ranks.world_size} ranks", hint="train in one process")
    defaults = type(train)()
    for name in ("evaluate_every", "evaluate_every_steps", "max_time_s"):
        if getattr(train, name) != getattr(defaults, name):
            yield Fault(f"train.{name}: a script has one evaluation at the end of an epoch, and no clock")
    if train.non_finite == "skip":
        yield Fault("train.non_finite: a script skips no update", hint="train with train.non_finite=fail")
    odd = [n for n, s in run.data.splits().items() if type(s) is not TensorDataset or len(s.tensors) != 2]
    if odd or run.data.collate is not None:
        kind = type(run.data.splits()[odd[0]]).__name__ if odd else "dataset with a `collate`"
        yield Fault(f"data: the {odd[0] if odd else 'train'} split is a {kind}, not two arrays in memory")
        return
    yield from _loss_faults(run)


def _loss_faults(run: RunView) -> Iterator[Fault]:
    import torch

    forward = Forward(run.model, run.loss, run.data.target, run.unwrapped_model, run)
    tensors: Any = run.data.train.tensors  # type: ignore[attr-defined] # the data were found to be a TensorDataset
    dtype = getattr(torch, run.config.train.dtype)
    prediction, *_ = forward(tuple(one[:2].to(dtype) if one.is_floating_point() else one[:2] for one in tensors))
    if not (forward.is_plain and isinstance(prediction, torch.Tensor)):
        yield Fault("loss: the loss takes more than the output of the model and the target")
    if weight_of(run.loss) is not None:
        yield Fault("loss: the weight of a batch is not the number of its examples")
