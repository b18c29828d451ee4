"""Several steps as one compiled function: forward, backward and update of each, from weights to weights.

The updates are computed by torch's functions behind its optimizer classes. The optimizer remains the owner of its
state, which is read before a block and written after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torch.optim.sgd import sgd

_BACKEND = "inductor"
"""Backend of the compiler: torch's own, which needs a C++ compiler."""
_CLASSES = (SGD, Adam, AdamW)
_READ_EACH_TIME = ("params", "lr")
"""Keys of a parameter group that are not constants of the compiled code."""

_Tensors = dict[str, Tensor]
"""Tensors by the name of their parameter."""
_States = list[dict[str, _Tensors]]
"""State of the optimizer: for each parameter group, by the name of the state and by parameter."""


class CompileError(Exception):
    """The steps of a block cannot be compiled as one graph; the message is the first line of torch's error."""


class Objective(nn.Module):
    """A model and a loss as one module that maps a batch to its loss, with the parameters of both."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, inputs: Any, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(self.model(inputs), target)


class _Group(NamedTuple):
    """A parameter group of an optimizer.

    Attributes:
        options: Its options when the block is made.
        parameters: Its trained parameters, by their names in the objective.
        kept: Names of the state that the optimizer keeps of each.
    """

    options: Mapping[str, Any]
    parameters: Mapping[str, nn.Parameter]
    kept: tuple[str, ...]


class Block:
    """Takes several steps in one call of compiled code.

    The code is compiled on the first call, for the number of steps and the shape of their batches. It changes nothing
    in place; each call of a block writes the results back.

    Args:
        objective: The model and the loss.
        optimizer: The optimizer; ``why_not`` checks whether it is supported.
        trained: The parameters that get gradients; all others stay unchanged, as the optimizer leaves them.
        is_checked: Whether to leave out steps that are not finite.
    """

    def __init__(
        self, objective: Objective, optimizer: Optimizer, trained: Sequence[nn.Parameter], *, is_checked: bool
    ) -> None:
        self._optimizer = optimizer
        self._objective = objective
        self._groups = _groups_of(objective, optimizer, trained)
        self._options = _options_of(optimizer)
        self._is_checked = is_checked
        self._take: Callable[..., Any] | None = None

    def has_changed(self) -> bool:
        """Return whether options of the optimizer, except learning rates, or its trained parameters have changed."""
        return self._options != _options_of(self._optimizer)

    def has_state(self) -> bool:
        """Return whether the optimizer has the state that it creates in its first update."""
        state = self._optimizer.state
        return all(
            state.get(parameter, {}).get(name) is not None
            for group in self._groups
            for parameter in group.parameters.values()
            for name in group.kept
        )

    def __call__(self, batches: Sequence[tuple[Any, Tensor]]) -> list[Tensor]:
        """Take a step with each batch, and return their losses: scalars, detached.

        The list is empty if a number is not finite; then nothing was changed.

        Raises:
            CompileError: When the steps cannot be compiled as one graph.
        """
        weights = {name: weight.detach() for group in self._groups for name, weight in group.parameters.items()}
        rates = [torch.tensor(float(group["lr"]), dtype=torch.float64) for group in self._optimizer.param_groups]
        with torch.no_grad():
            taken = self._called(weights, self._states(), rates, list(batches))
            is_finite, losses, weights_after, states_after, gradients = taken
            if self._is_checked and not is_finite.item():
                return []
            self._write(weights_after, states_after, gradients)
        return list(losses.unbind())

    def _called(self, *arguments: Any) -> Any:
        if self._take is not None:
            return self._take(*arguments)
        steps = _steps_of(self._objective, self._groups, type(self._optimizer), is_checked=self._is_checked)
        take = torch.compile(steps, fullgraph=True, dynamic=False, backend=_BACKEND)
        try:
            taken = take(*arguments)
        except Exception as error:
            raise CompileError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
        self._take = take
        return taken

    def _states(self) -> _States:
        state = self._optimizer.state
        return [
            {
                kept: {name: state[parameter][kept] for name, parameter in group.parameters.items()}
                for kept in group.kept
            }
            for group in self._groups
        ]

    def _write(self, weights: _Tensors, states: _States, gradients: _Tensors) -> None:
        """Overwrite weights and state in place, since others hold them; leave the gradients of the last step."""
        before = self._states()
        for number, group in enumerate(self._groups):
            for name, parameter in group.parameters.items():
                parameter.copy_(weights[name])
                parameter.grad = gradients[name]
                for kept in group.kept:
                    before[number][kept][name].copy_(states[number][kept][name])


def why_not(optimizer: Optimizer) -> str:
    """Return the reason why a block does not support an optimizer, worded to follow its name; empty if it does.

    >>> why_not(torch.optim.SGD([torch.zeros(1)]))
    ''
    """
    if type(optimizer) not in _CLASSES:
        return f"is not one of torch's {', '.join(one.__name__ for one in _CLASSES)}, whose updates are known"
    for option in ("differentiable", "capturable"):
        if any(group.get(option) for group in optimizer.param_groups):
            return f"has {option} = True, which compiled code does not support"
    return ""


def followers(objective: Objective, optimizer: Optimizer) -> Iterator[str]:
    """Yield the names of hooks around updates or on gradients, which a block would not call."""
    of_steps = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks  # noqa: SLF001 - torch has no public access
    of_gradients = (
        getattr(parameter, name) or {}
        for parameter in objective.parameters()
        for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
    )
    for hooks in (*of_steps, *of_gradients):
        for hook in hooks.values():
            yield getattr(hook, "__qualname__", type(hook).__name__)


# ---- what is compiled ------------------------------------------------------------------------------------------------


def _steps_of(
    objective: Objective, groups: Sequence[_Group], optimizer: type[Optimizer], *, is_checked: bool
) -> Callable[..., Any]:
    """Return the steps as a function of weights, states, learning rates and batches."""
    update = _update_by_sgd if optimizer is SGD else _update_by_adamw if optimizer is AdamW else _update_by_adam

    def loss_of(weights: _Tensors, batch: tuple[Any, Tensor]) -> Tensor:
        return cast(Tensor, torch.func.functional_call(objective, weights, batch))

    gradients_and_loss = torch.func.grad_and_value(loss_of)

    def take(weights: _Tensors, states: _States, rates: list[Tensor], batches: list[tuple[Any, Tensor]]) -> Any:
        weights = {name: weight.clone() for name, weight in weights.items()}
        states = [{kept: _working(kept, tensors) for kept, tensors in state.items()} for state in states]
        values: list[Tensor] = []
        gradients: _Tensors = {}
        # Each batch is a separate argument: as slices of a single one, each step would get separate kernels.
        for batch in batches:
            gradients, loss = gradients_and_loss(weights, batch)
            for group, state, rate in zip(groups, states, rates, strict=True):
                update(group, state, rate, weights, gradients)
            values.append(loss)
        losses = torch.stack(values)
        is_finite = _are_finite([losses, *weights.values()]) if is_checked else None
        return is_finite, losses, weights, states, gradients

    return take


def _working(kept: str, tensors: _Tensors) -> _Tensors:
    # The optimizer computes with a Python float. In float32, 1 - beta**step would lose half of its digits.
    return {name: tensor.double() if kept == "step" else tensor.clone() for name, tensor in tensors.items()}


def _are_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether everything is finite; a gradient that is not makes its weight non-finite for good."""
    return torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all()


def _update_by_sgd(
    group: _Group, state: Mapping[str, _Tensors], lr: Any, weights: _Tensors, gradients: _Tensors
) -> None:
    options = group.options
    sgd(
        [weights[name] for name in group.parameters],
        [gradients[name] for name in group.parameters],
        list(state["momentum_buffer"].values()) if group.kept else [None] * len(group.parameters),
        foreach=False,
        fused=False,
        weight_decay=options["weight_decay"],
        momentum=options["momentum"],
        lr=lr,
        dampening=options["dampening"],
        nesterov=options["nesterov"],
        maximize=options["maximize"],
    )


def _update_by_adam(
    group: _Group,
    state: Mapping[str, _Tensors],
    lr: Any,
    weights: _Tensors,
    gradients: _Tensors,
    *,
    decoupled_weight_decay: bool = False,
) -> None:
    options = group.options
    adam(
        [weights[name] for name in group.parameters],
        [gradients[name] for name in group.parameters],
        list(state["exp_avg"].values()),
        list(state["exp_avg_sq"].values()),
        list(state["max_exp_avg_sq"].values()) if options["amsgrad"] else [],
        list(state["step"].values()),
        foreach=False,
        fused=False,
        decoupled_weight_decay=decoupled_weight_decay,
        amsgrad=options["amsgrad"],
        beta1=options["betas"][0],
        beta2=options["betas"][1],
        lr=lr,
        weight_decay=options["weight_decay"],
        eps=options["eps"],
        maximize=options["maximize"],
    )


def _update_by_adamw(
    group: _Group, state: Mapping[str, _Tensors], lr: Any, weights: _Tensors, gradients: _Tensors
) -> None:
    _update_by_adam(group, state, lr, weights, gradients, decoupled_weight_decay=True)


# ---- the parameters and their groups ---------------------------------------------------------------------------------


def _groups_of(objective: Objective, optimizer: Optimizer, trained: Sequence[nn.Parameter]) -> list[_Group]:
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    ids = set(map(id, trained))
    return [
        _Group(
            options=options,
            parameters={names[id(one)]: one for one in group["params"] if id(one) in ids},
            kept=_kept_by(optimizer, options),
        )
        for group, options in zip(optimizer.param_groups, _option_tables(optimizer), strict=True)
    ]


def _kept_by(optimizer: Optimizer, options: Mapping[str, Any]) -> tuple[str, ...]:
    if type(optimizer) is SGD:
        return ("momentum_buffer",) if options["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options["amsgrad"] else []))


def _option_tables(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in group.items() if name not in _READ_EACH_TIME}
        for group in optimizer.param_groups
    ]


def _options_of(optimizer: Optimizer) -> tuple[list[dict[str, Any]], list[bool]]:
    is_trained = [parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"]]
    return _option_tables(optimizer), is_trained
