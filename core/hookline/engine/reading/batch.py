"""Operations on one batch of any form: count, slice, move and cast its tensors, and pass it through a model."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import DataError


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of the first tensor in it; 1 without a tensor.

    >>> count_examples({"name": ["a", "b"], "image": torch.zeros(2, 3)})
    2
    """
    if type(batch) is tuple and type(batch[0]) is Tensor and batch[0].dim():
        return batch[0].shape[0]  # fast path, used in every step; len() takes twice as long
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)


def part_of(batch: Any, start: int, stop: int | None) -> Any:
    """Return the examples of a batch from ``start`` to ``stop`` (exclusive), or to the end: slices of its tensors.

    >>> part_of({"x": torch.arange(5), "name": "all"}, 1, 3)
    {'x': tensor([1, 2]), 'name': 'all'}
    """
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() else batch
    return with_parts(batch, lambda part: part_of(part, start, stop))


def rows_of(rank: int, world_size: int, size: int) -> slice:
    """Return the rows of a batch of ``size`` examples that a rank takes."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield every tensor of a batch of any nesting.

    >>> len(list(tensors_in({"a": torch.zeros(1), "b": [torch.zeros(1), "c"]})))
    2
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors_in(part)
    elif is_dataclass(batch):
        yield from tensors_in([getattr(batch, field.name) for field in fields(batch)])


def placed(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a batch of any nesting with its tensors on a device, and floating-point tensors cast to a dtype.

    Complex tensors get the complex dtype of the same precision; integers and booleans keep theirs.
    Mappings, lists, tuples, named tuples and dataclasses keep their type. Any other object with a method ``to``, such
    as a ``PackedSequence``, moves itself; the rest is unchanged. A copy from pinned memory does not wait for the
    device.
    """
    if isinstance(batch, Tensor):
        is_complex = batch.is_complex()
        wanted = dtype.to_complex() if is_complex else dtype if batch.is_floating_point() else batch.dtype
        return batch.to(device=device, dtype=wanted, non_blocking=True)
    if hasattr(batch, "to"):
        return batch.to(device)
    return with_parts(batch, lambda part: placed(part, device, dtype))


def on_cpu(batch: Any) -> Any:
    """Return a batch of any nesting with its tensors on the CPU."""
    return batch.cpu() if isinstance(batch, Tensor) else with_parts(batch, on_cpu)


def placed_module(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a module moved to a device, with its floating-point and complex tensors cast as those of a batch.

    Unlike ``Module.to``, it keeps imaginary parts.
    """
    place = functools.partial(placed, device=device, dtype=dtype)
    module = module.to(device)
    module._apply(place)  # type: ignore[no-untyped-call] # noqa: SLF001 - Module.to calls it, too
    return module


def with_parts(batch: Any, changed: Callable[[Any], Any]) -> Any:
    """Return a mapping, list, tuple, named tuple or dataclass of the same type with each part ``changed``.

    Any other object is returned as it is.

    A mapping that cannot be written to becomes a dict.
    """
    if isinstance(batch, Mapping):
        values = {key: changed(value) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return values
        # The constructors of mappings differ, so their copies are updated, as in torch's default_collate.
        clone = copy.copy(batch)
        clone.update(values)
        return clone
    if isinstance(batch, tuple | list):
        parts = [changed(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if is_dataclass(batch) and not isinstance(batch, type):
        parts_by_name = {field.name: changed(getattr(batch, field.name)) for field in fields(batch) if field.init}
        return replace(batch, **parts_by_name)
    return batch


def brief(value: Any) -> str:
    """Return a short description of a value: shape and dtype of a tensor, or the type of another object."""
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(map(brief, value[:3]))
    if isinstance(value, Mapping) and any(True for _ in tensors_in(value)):
        shown = [f"{key!r}: {brief(part)}" for key, part in list(value.items())[:3]]
        return f"a {type(value).__name__} of {len(value)}: " + ", ".join(shown)
    return "nothing" if value is None else f"a {type(value).__name__}"


class Forward:
    """Passes batches of any form through a model, and says what its loss asks for.

    A batch is a pair ``(input, target)``, or a mapping with an entry for the target. Inputs that are a mapping are
    passed by name to a model whose ``forward`` has parameters of those names, and as they are to any other model. The
    prediction is the output of the model, or its ``logits`` if it has such an attribute or entry.

    Args:
        model: The model, with all wrappers around it.
        loss: The loss, ``(prediction, target)``; further parameters named ``inputs``, ``output`` or ``run`` get the
            inputs, the whole output of the model, and the run. For a loss that asks for ``output``, the model gets the
            target as well, if it has a parameter of that name, as models that compute their own loss do.
        target: Name of the target in batches and in parameters of models.
        unwrapped: The model without wrappers, in case they hide its parameters.
        run: The run.

    Attributes:
        asked: Names of the further arguments of the loss.
        is_plain: Whether the last batch was a pair for which ``loss(model(input), target)`` is the same.

    Example:
        >>> from torch import nn
        >>> Forward(nn.Identity(), nn.MSELoss())((torch.ones(1), torch.zeros(1)))
        (tensor([1.]), tensor([0.]), {})
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        target: str = "labels",
        unwrapped: nn.Module | None = None,
        run: Any = None,
    ) -> None:
        self.model, self.loss, self.target, self.run = model, loss, target, run
        inner = model if unwrapped is None else unwrapped
        self._taken = _names_of(model.forward) or _names_of(inner.forward)
        function = loss.forward if isinstance(loss, nn.Module) else loss
        self.asked = [name for name in _names_of(function)[2:] if name in ("inputs", "output", "run")]
        self.is_plain = False

    def __call__(self, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Return prediction, target, and what the loss asks for besides."""
        inputs, target = self.pair(batch)
        output = self.output(inputs, target)
        prediction = prediction_of(output)
        is_plain = not (self.asked or isinstance(batch, Mapping) or self.takes_by_name(inputs))
        self.is_plain = is_plain and prediction is output
        given = {"inputs": inputs, "output": output, "run": self.run}
        return prediction, target, {name: given[name] for name in self.asked}

    def with_loss(self, loss: Any, model: nn.Module) -> Forward:
        """Return a copy with another function of the same parameters for the loss, and another model of the same."""
        other = copy.copy(self)
        other.loss, other.model = loss, model
        return other

    def loss_of(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""
        prediction, target, asked = self(batch)
        value: Tensor = self.loss(prediction, target, **asked)
        return value

    def pair(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and the target of a batch.

        Raises:
            DataError: When it has no target.
        """
        if isinstance(batch, Mapping):
            if self.target not in batch:
                hint = "name the entry that is the target: DataSource(..., target=...)"
                raise DataError(f"a batch is {brief(batch)}, and has no target {self.target!r}", hint=hint)
            return {name: part for name, part in batch.items() if name != self.target}, batch[self.target]
        inputs, target = batch
        return inputs, target

    def output(self, inputs: Any, target: Any = None) -> Any:
        """Return the output of the model."""
        if not self.takes_by_name(inputs):
            return self.model(inputs)
        is_given = "output" in self.asked and self.target in self._taken and target is not None
        return self.model(**inputs, **({self.target: target} if is_given else {}))

    def takes_by_name(self, inputs: Any) -> bool:
        """Return whether inputs are passed to the model by name."""
        return isinstance(inputs, Mapping) and any(name in self._taken for name in inputs)


def prediction_of(output: Any) -> Any:
    """Return the ``logits`` of a model's output, an attribute or an entry; without them, the output itself.

    >>> prediction_of({"logits": 1.0, "hidden": 2.0})
    1.0
    """
    if isinstance(output, Tensor):
        return output
    return output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)


def _names_of(function: Any) -> list[str]:
    """Return the names of the parameters of a function; none for one in C, or one that passes on what it gets."""
    with suppress(TypeError, ValueError):
        parameters = inspect.signature(function).parameters.values()
        return [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return []
