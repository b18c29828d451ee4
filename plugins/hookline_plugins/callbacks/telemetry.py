"""Callback ``telemetry``: the loss, learning rate, gradient norm, speed and memory of the steps, logged as they go."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import hookimpl
from hookline.trained import only_watches

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import RunView

_Reader = Callable[[int, int], Iterator[Any]]


@dataclass
class Telemetry:
    """Numbers about the steps, logged over every ``train.log_every_steps`` steps and at the end of each epoch.

    ``loss`` is the mean over the steps of the interval; ``lr`` the learning rate of its last step, or ``lr/0``,
    ``lr/1`` ... if groups of parameters differ; ``gradient_norm`` the Euclidean norm of all gradients in that step, as
    the optimizer would get it without the callbacks that are listed before; ``examples_per_s`` and ``tokens_per_s`` the
    speed without the time of evaluations; ``memory_bytes`` the peak of the memory of the accelerator, or of this
    process. With several ranks, the loss and the speed are those of all, and the memory is that of rank 0. Tokens are
    counted if the inputs are a mapping with ``attention_mask``, or else with ``input_ids``.
    """

    script = only_watches

    gradient_norm: Annotated[bool, Meta(description="log the norm of the gradient of the last step")] = True
    speed: Annotated[bool, Meta(description="log examples and tokens per second")] = True
    memory: Annotated[bool, Meta(description="log the peak of the memory in bytes")] = True

    def __post_init__(self) -> None:
        self._due: float = 0
        self._num_examples = 0
        self._num_tokens: Any = None
        self._start = self._evaluation_start = 0.0

    @property
    def allows_fused_steps(self) -> bool:
        """True if no gradient is looked at: a block has none between its steps."""
        return not self.gradient_norm

    # Outside those listed before: it sees the gradients that they change.
    @hookimpl(wrapper=True)
    def build_update(self, run: RunView) -> Generator[None, Any, Callable[[], None]]:
        """Log the norm of the gradient in the last step of an interval."""
        update: Callable[[], None] = yield
        if not self.gradient_norm:
            return update
        from torch.nn.utils import get_total_norm

        def observed_update() -> None:
            if run.step + 1 >= self._due:
                parameters = (parameter for group in run.optimizer.param_groups for parameter in group["params"])
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                dense = [each.coalesce().values() if each.is_sparse else each for each in gradients]
                run.log("gradient_norm", run.ranks.whole(get_total_norm(dense)))
            update()

        return observed_update

    @hookimpl(wrapper=True)
    def build_reader(self) -> Generator[None, Any, _Reader]:
        """Count the examples and tokens of the batches."""
        read: _Reader = yield
        return (lambda epoch, start: self._counting(read(epoch, start))) if self.speed else read

    def _counting(self, batches: Iterator[Any]) -> Iterator[Any]:
        from hookline.engine import count_examples  # imports torch; here, because a door looks a name up in each use

        for batch in batches:
            self._num_examples += count_examples(batch)
            if (num_tokens := _tokens(batch)) is not None:
                self._num_tokens = num_tokens if self._num_tokens is None else self._num_tokens + num_tokens
            yield batch

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Start the first interval, of a resumed run within an epoch."""
        self.__post_init__()
        self._begin(run)

    @hookimpl
    def on_epoch_start(self, run: RunView) -> None:
        """Start the first interval of an epoch."""
        self._begin(run)

    @hookimpl
    def on_step_end(self, run: RunView, loss: Tensor) -> None:
        """Log the loss; at the end of an interval also everything else."""
        run.log("loss", loss)
        if run.step >= self._due:
            self._end(run)
            self._begin(run)

    @hookimpl
    def on_evaluation_start(self) -> None:
        """Note the time."""
        self._evaluation_start = time.perf_counter()

    @hookimpl
    def on_evaluation_end(self) -> None:
        """Leave the time of the evaluation out."""
        self._start += time.perf_counter() - self._evaluation_start

    def _begin(self, run: RunView) -> None:
        every, num_left = run.config.train.log_every_steps, (run.steps_per_epoch or math.inf) - run.position
        self._due = min((run.step // every + 1) * every, run.step + (num_left or math.inf))
        self._num_examples, self._num_tokens = 0, None
        self._start = time.perf_counter()

    def _end(self, run: RunView) -> None:
        rates = [float(group["lr"]) for group in run.optimizer.param_groups]
        named = {"lr": rates[0]} if len({*rates}) == 1 else {f"lr/{number}": rate for number, rate in enumerate(rates)}
        if self.speed:
            seconds = time.perf_counter() - self._start
            counts = {"examples_per_s": self._num_examples, "tokens_per_s": self._num_tokens}
            counts = {name: count for name, count in counts.items() if count is not None}
            of_all = run.ranks.sum(list(counts.values()))
            named |= {name: count / seconds for name, count in zip(counts, of_all, strict=True)}
        if self.memory and sys.platform != "win32":
            named["memory_bytes"] = _peak_memory(run)
        for name, value in named.items():
            run.log(name, value, reduce="last")


def _tokens(batch: Any) -> Any:
    """Return the number of tokens of a batch, a number or a tensor; None if the batch does not say."""
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, Mapping):
        return None
    if (mask := inputs.get("attention_mask")) is not None:
        return mask.sum()
    return inputs["input_ids"].numel() if "input_ids" in inputs else None


def _peak_memory(run: RunView) -> int:
    if run.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(run.device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
