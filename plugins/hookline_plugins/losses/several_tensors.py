"""Losses of torch that take several tensors, as functions of a prediction and a target.

Imported only when such a loss is made, because it needs torch.

Shapes: ``B`` examples in a batch, ``O`` values predicted for an example, ``E`` numbers in an embedding, ``T`` times in
the longest sequence, ``S`` labels in the longest target, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_Loss = Callable[[Any, Any], Tensor]


def over_pairs(loss: nn.Module, name: str, parts: str, *, is_elementwise: bool) -> _Loss:
    """Return ``loss(first, second, target)`` for predictions ``(first, second)``."""

    def pair_loss(prediction: Any, target: Tensor) -> Tensor:
        first, second = _parts_of(prediction, 2, name, parts)
        if is_elementwise:
            _check_shapes(name, first=first, second=second, target=target)
        value: Tensor = loss(first, second, target)
        return value

    return pair_loss


def over_triplets(loss: nn.Module, name: str) -> _Loss:
    """Return ``loss(anchor, positive, negative)`` for predictions ``(anchor, positive, negative)``; no target."""

    def triplet_loss(prediction: Any, target: Any) -> Tensor:  # noqa: ARG001 - the name says that this is the loss itself
        value: Tensor = loss(*_parts_of(prediction, 3, name, "(anchor, positive, negative)"))
        return value

    return triplet_loss


def over_variances(loss: nn.Module, name: str) -> _Loss:
    """Return ``loss(mean, target, variance)`` for predictions ``(mean, variance)``."""

    def variance_loss(prediction: Any, target: Tensor) -> Tensor:
        mean, variance = _parts_of(prediction, 2, name, "(mean, variance)")
        _check_shapes(name, mean=mean, variance=variance, target=target)
        value: Tensor = loss(mean, target, variance)
        return value

    return variance_loss


def over_sequences(loss: nn.CTCLoss, name: str) -> _Loss:
    """Return ``loss(log_probs, targets, input_lengths, target_lengths)``, with the batch first.

    A prediction is ``log_probs [B, T, C]`` or ``(log_probs, input_lengths [B])``; without lengths, all are ``T``. A
    target is ``[B, S]``, padded with the blank, or ``(targets, target_lengths [B])``.
    """

    def sequence_loss(prediction: Any, target: Any) -> Tensor:
        if isinstance(prediction, Tensor):
            lengths = torch.full((len(prediction),), prediction.shape[1], device=prediction.device)
            prediction = (prediction, lengths)
        if isinstance(target, Tensor):
            target = (target, (target != loss.blank).sum(1))
        log_probs, input_lengths = _parts_of(prediction, 2, name, "(log_probs, input_lengths)")
        labels, target_lengths = _parts_of(target, 2, name, "(targets, target_lengths)", "target")
        value: Tensor = loss(log_probs.transpose(0, 1), labels, input_lengths, target_lengths)
        return value

    return sequence_loss


def _parts_of(value: Any, number: int, name: str, parts: str, kind: str = "prediction") -> Any:
    """Return the tensors of a tuple; a tensor is none, although it can be unpacked along its first dimension.

    Raises:
        ValueError: When it has another number of them.
    """
    if isinstance(value, tuple | list) and len(value) == number:
        return value
    got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ValueError(f"{name} needs {number} tensors as its {kind}, a tuple {parts}, but got {got}")


def _check_shapes(name: str, **tensors: Tensor) -> None:
    """Check that tensors have the same shape: otherwise they would be broadcast.

    Raises:
        ValueError: When they have not.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{kind} {list(tensor.shape)}" for kind, tensor in tensors.items())
        raise ValueError(f"{name} compares element by element, but the shapes differ: {shapes}")
