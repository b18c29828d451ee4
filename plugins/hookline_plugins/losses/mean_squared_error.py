"""Mean squared error without broadcasting.

Imported only when such a loss is made, because it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function_variadic

_mse_loss: Callable[[Tensor, Tensor, int], Tensor] = torch._C._nn.mse_loss  # type: ignore[assignment]  # noqa: SLF001 - nn.MSELoss calls it too


class MSELoss(nn.MSELoss):
    """``nn.MSELoss`` with the same values and gradients, but faster for small tensors.

    torch first expands both tensors to a common shape, which takes as long as the rest even if they have it already.
    Tensors of different shapes are left to torch, with its warning; so are other reductions than the mean, and tensors
    that override torch's functions.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Return the mean of ``(input - target)^2``, a scalar."""
        is_special = has_torch_function_variadic(input, target) or self.reduction != "mean"
        if is_special or input.shape != target.shape:
            return nn.functional.mse_loss(input, target, reduction=self.reduction)
        return _mse_loss(input, target, 1)  # 1 is the mean in torch's C++
