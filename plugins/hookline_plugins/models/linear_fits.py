"""Linear models with a penalty, fitted to training examples at once.

Imported only by models that start from one, because it needs torch. Shapes: ``N`` examples, ``I`` features, ``O``
outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from hookline import ContractError

_PENALTIES = tuple(10.0**power for power in range(6, -4, -1))
"""Penalties of a ridge regression to choose from, the strongest first; on standardized features they are between
leaving the mean and leaving no trace."""
_MAX_STEPS = 100
"""Steps of L-BFGS for a logistic regression: the default of scikit-learn's ``LogisticRegression``."""


def fitted_line(inputs: Tensor, targets: Tensor, task: str | None, num_outputs: int) -> tuple[Tensor, Tensor]:
    """Return the weights ``[O, I]`` and the bias ``[O]`` of a linear model for a task, float64.

    Raises:
        ContractError: If the data source does not name the task.
    """
    if task == "regression":
        return ridge(inputs, targets.double())
    if task in ("classification", "binary"):
        return logistic(inputs, targets, num_outputs)
    hint = 'set `task` in the DataSource that build_data returns, or start = "zero"'
    raise ContractError("a fitted start needs the task of the data, which the data source does not give", hint=hint)


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a ridge regression: ``|y - x W^T - b|^2 + penalty |W|^2``, with the penalty of the smallest error.

    The error is that of leaving out one example, ``(y - prediction) / (1 - leverage)``, as in Hastie et al., *The
    Elements of Statistical Learning*, section 7.10.1.

    Args:
        inputs: Features, float64 ``[N, I]``.
        targets: Targets, float64 ``[N, O]``.

    Returns:
        The weights ``[O, I]`` and the bias ``[O]``.
    """
    center, middle = inputs.mean(dim=0), targets.mean(dim=0)
    left, sizes, right = torch.linalg.svd(inputs - center, full_matrices=False)
    seen = left.T @ (targets - middle)
    smallest, weight = torch.inf, torch.zeros(targets.shape[1], inputs.shape[1], dtype=torch.float64)
    for penalty in _PENALTIES:
        shrink = (sizes**2 / (sizes**2 + penalty)).unsqueeze(1)
        leverage = left**2 @ shrink + 1 / len(inputs)
        error = (((targets - middle) - left @ (shrink * seen)) / (1 - leverage)).square().mean().item()
        if error < smallest:  # never, if there is a single example
            smallest, weight = error, (right.T @ (seen * (sizes / (sizes**2 + penalty)).unsqueeze(1))).T
    return weight, middle - weight @ center


def logistic(inputs: Tensor, targets: Tensor, num_outputs: int) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression: the sum of the cross-entropies and ``|W|^2 / 2``.

    Args:
        inputs: Features, float64 ``[N, I]``.
        targets: Class indices ``[N]``, or 0 and 1 as floating-point numbers ``[N, 1]``.
        num_outputs: ``O``.

    Returns:
        The weights ``[O, I]`` and the bias ``[O]``.
    """
    is_binary = targets.is_floating_point()
    weight = torch.zeros(num_outputs, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = inputs @ weight.T + bias
        wrong = (
            binary_cross_entropy_with_logits(outputs, targets.double())
            if is_binary
            else cross_entropy(outputs, targets)
        )
        total = wrong + weight.square().sum() / (2 * len(inputs))
        total.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call] # torch leaves it unannotated
    return weight.detach(), bias.detach()
