"""``Components``: the parts of a run, and the choice of their device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.data import DataSource
from hookline.engine.errors import ConfigError
from hookline.engine.loop.evaluated_weights import EvaluatedWeights
from hookline.engine.loop.evaluation import evaluate_splits
from hookline.engine.loop.metrics import metrics_of
from hookline.engine.loop.splits import SplitReader
from hookline.engine.ranks import Parallel, Share
from hookline.engine.reading.batch import Forward
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.engine.train_options import TrainOptions
from hookline.engine.view import Evaluation, Guard, LossFunction, Metric, RunView, StepFunction
from hookline.engine.words import did_you_mean

_TYPES = ("auto", "cpu", "cuda", "mps")


class Components:
    """The components of a run; each is set as soon as it is built.

    Attributes:
        dtype: Floating-point type of weights and data.
        device: Device of the model and of every batch.
        data: The data source.
        read: Reader of the batches of a split.
        workers: The processes that read examples.
        batches: The training batches.
        evaluation_batches: The batches of each split that is evaluated.
        model: The model, with all wrappers around it.
        unwrapped_model: The model as its plugin built it.
        loss: The loss.
        weigh: Returns the weight of a training batch in the mean loss.
        forward: Passes a batch through model and loss.
        metrics: The metrics, by name.
        evaluation: Evaluates a batch.
        numbers: Names of the further numbers that it gives, as far as they are known.
        optimizer: The optimizer.
        finite_guard: The check that losses and gradients are finite.
        backward: Adds the gradients of a loss to the parameters' ``grad``.
        update: Updates the weights by their gradients.
        micro_batch_size: Number of examples that pass through the model at once; 0: all; None: the step does not split
            batches.
        step: The training step.
        reader: Reader of the training batches, ``(epoch, start) -> batches``.
        evaluated_weights: The weights that are evaluated.
        share: The part of the training batches that this rank reads; None if it is alone.
        parallel: How several ranks train the model.
    """

    data: DataSource
    read: SplitReader
    workers: Workers
    batches: Batches
    evaluation_batches: Mapping[str, Batches]
    model: nn.Module
    unwrapped_model: nn.Module
    loss: LossFunction
    weigh: Callable[[Any], int | Tensor]
    forward: Forward
    metrics: Mapping[str, Metric]
    evaluation: Evaluation
    optimizer: Optimizer
    finite_guard: Guard
    backward: Callable[[Tensor], None]
    update: Callable[[], None]
    step: StepFunction
    reader: Callable[[int, int], Iterator[Any]]

    def __init__(self, options: TrainOptions) -> None:
        self.dtype: torch.dtype = getattr(torch, options.dtype)
        self.device = find_device(options.device)
        self.micro_batch_size: int | None = None
        self.evaluated_weights = EvaluatedWeights()
        self.numbers: list[str] = []
        self.share: Share | None = None
        self.parallel = Parallel(nn.Module())  # until several ranks share a model

    def ensure_training_mode(self) -> None:
        """Put the model into training mode if it is in eval mode as a whole; otherwise keep the modes of its parts."""
        if not self.unwrapped_model.training:
            self.model.train()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics of each epoch, without logged values."""
        evaluated = [
            f"{split}/{name}"
            for split in self.evaluation_batches
            for name in ("loss", *self.numbers, *metrics_of(split, self.metrics))
        ]
        return ("train/running_loss", *evaluated)

    def evaluate(self, run: RunView, splits: Iterable[str] | None = None) -> Mapping[str, float]:
        """Return the loss and the metrics of the given splits, by default of all that are evaluated; no events."""
        self.parallel.synchronize()
        chosen = {split: self.evaluation_batches[split] for split in splits or self.evaluation_batches}
        return evaluate_splits(run, self.read, chosen, self.evaluation, self.metrics, self.parallel)


def find_device(name: str) -> torch.device:
    """Return the device that the config names: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the first CUDA device if torch finds one, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: When there is no such device, or torch's default device is not the CPU.
    """
    default = torch.get_default_device()
    if default.type != "cpu":
        message = f"torch's default device is {str(default)!r}, but a run orders its data on the CPU"
        hint = "do not call torch.set_default_device; 'train.device' sets the device of model and batches"
        raise ConfigError(message, hint=hint)
    kind, colon, number = name.partition(":")
    if kind not in _TYPES or (colon and not (kind == "cuda" and number.isdecimal())):
        hint = did_you_mean(kind, _TYPES)
        raise ConfigError(f"'train.device' is {name!r}, but must be one of {', '.join(_TYPES)} or cuda:N", hint=hint)
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    if (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        message = f"'train.device' is {name!r}, but torch finds no such device"
        raise ConfigError(message, hint="set it to 'auto' or 'cpu'")
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"'train.device' is {name!r}, but torch finds {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
