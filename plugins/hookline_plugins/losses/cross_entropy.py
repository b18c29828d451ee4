"""Cross-entropy of torch, faster for predictions with further dimensions, such as those of tokens.

Imported only when the loss is built, because it needs torch. Shapes: ``B`` examples, ``C`` classes.
"""

from torch import Tensor, nn


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Cross-entropy of predictions ``[B, C, ...]`` and class indices ``[B, ...]``; see ``nn.CrossEntropyLoss``.

    The classes are put last before it is computed, where torch takes a third of the time for it. If they were last in
    memory, as in the output of a linear layer, nothing is copied.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Return the mean."""
        if input.dim() <= 2 or target.is_floating_point():
            return super().forward(input, target)
        rows = input.movedim(1, -1)
        if rows.shape[:-1] != target.shape:
            message = f"prediction {list(input.shape)} and target {list(target.shape)} do not fit: the classes must be"
            raise ValueError(f"{message} the second dimension, [B, C, ...] for targets [B, ...]; see transpose(1, 2)")
        return super().forward(rows.reshape(-1, rows.shape[-1]), target.reshape(-1))
