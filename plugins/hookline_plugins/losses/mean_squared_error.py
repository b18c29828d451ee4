"""The mean squared error without the broadcasting before it.

Imported when such a loss is made, because it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function_variadic

_mse_loss: Callable[[Tensor, Tensor, int], Tensor] = torch._C._nn.mse_loss  # type: ignore[assignment]  # noqa: SLF001 - what torch's own calls


class MSELoss(nn.MSELoss):
    """``nn.MSELoss``: the same numbers, the same gradients, in less time for small tensors.

    torch expands both tensors to one shape first, which changes nothing when they have one, and takes as long as the
    rest. Tensors of different shapes are left to it, with its warning; so is another reduction than the mean, and
    whatever overrides torch's functions.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Return the mean of ``(input - target)^2``, a scalar."""
        is_special = has_torch_function_variadic(input, target) or self.reduction != "mean"
        if is_special or input.shape != target.shape:
            return nn.functional.mse_loss(input, target, reduction=self.reduction)
        return _mse_loss(input, target, 1)  # the number of the mean in torch's C++
