"""Loss ``model-loss``: the loss that the model computes itself.

Shapes: ``B`` examples in a batch, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ContractError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ModelLoss:
    """The ``loss`` of the model's output, an attribute or an entry, for models that compute their own.

    A model whose ``forward`` has a parameter with the name of the target, such as ``labels``, gets the target with the
    inputs. The loss must be a mean over the targets that count: over the examples, or over those integers that are not
    ``ignore_index``.
    """

    ignore_index: Annotated[int, Meta(description="integer targets that do not count")] = -100
    next_token: Annotated[
        bool,
        Meta(description="whether the targets are tokens, of which the first in a row does not count"),
    ] = False

    @hookimpl
    def build_loss(self) -> _Loss:
        """Return the loss."""
        return _Loss(self.ignore_index, self.next_token)


class _Loss:
    """The loss of an output, and the number of targets that count in it."""

    def __init__(self, ignore_index: int, next_token: bool) -> None:
        self._ignore_index, self._next_token = ignore_index, next_token

    def __call__(self, prediction: Any, target: Any, output: Any) -> Tensor:  # noqa: ARG002 - the loss has seen both
        """Return the loss of an output.

        Raises:
            ContractError: When it has none.
        """
        value = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if value is None:
            from hookline.engine import brief

            hint = "does its forward have a parameter with the name of the target? See DataSource(..., target=...)"
            raise ContractError(f"the model returned {brief(output)}, without a loss", hint=hint)
        loss: Tensor = value
        return loss

    def batch_weight(self, target: Tensor) -> Tensor:
        """Return the number of targets that count: of integers, or else of examples."""
        if target.is_floating_point():
            return target.new_full((), len(target))
        return ((target[..., 1:] if self._next_token else target) != self._ignore_index).count_nonzero()
