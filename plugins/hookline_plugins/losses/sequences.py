"""Losses for sequences: those of torch. Each is the mean over the batch.

Shapes: ``B`` sequences in a batch, ``T`` times in the longest, ``S`` labels in the longest target, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import hookimpl
from hookline_plugins.losses.torch_loss import TorchLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CTC(TorchLoss):
    """Connectionist temporal classification, ``nn.CTCLoss``: labels of a sequence without their times.

    The mean over the sequences of the loss, divided by the number of labels. Unlike torch's, it has the batch first.
    Predictions are log-probabilities ``[B, T, C]``, as from ``log_softmax``, or a tuple of them and the lengths of the
    sequences, int64 ``[B]``. Targets are class indices, int64 ``[B, S]``, padded with ``blank``, or a tuple of them
    and the numbers of labels, int64 ``[B]``. Source: A. Graves et al., "Connectionist temporal classification",
    ICML (2006). Defaults are those of ``torch.nn``.
    """

    blank: Annotated[int, Meta(ge=0, description="class index that stands for no label")] = 0
    zero_infinity: Annotated[bool, Meta(description="count a sequence that is shorter than its target as 0")] = False

    @hookimpl
    def build_loss(self) -> Callable[[Any, Any], Tensor]:
        """Build the loss."""
        from torch import nn

        from hookline_plugins.losses.several_tensors import over_sequences

        built = self.of_torch()
        assert isinstance(built, nn.CTCLoss)
        return over_sequences(built, "ctc")
