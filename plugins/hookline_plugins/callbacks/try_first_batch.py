"""Callback ``try-first-batch``: pass the first batch of each split through model and loss before the first step."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hookline import ConfigError, ContractError, RunView, hookimpl
from hookline.trained import only_watches
from hookline_plugins.callback_parts.process_watch import ProcessWatch

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hookline.engine import Trial


@dataclass
class TryFirstBatch:
    """Check that data, model, loss, metrics, optimizer and step fit together, before the first step.

    The first batch of each split passes through model and loss, and nothing is updated. Each fault is one error that
    names the plugin, the shapes and the remedy. It also warns of what plugins change for the whole process until the
    end of the first epoch, such as the current folder.
    """

    script = only_watches

    allows_fused_steps = True

    def __post_init__(self) -> None:
        self._watch: ProcessWatch | None = None

    @hookimpl(tryfirst=True)
    def build_data(self) -> None:
        """Look at the process before the first component is built; build nothing."""
        self._watch = ProcessWatch()

    @hookimpl
    def on_model_built(self, run: RunView, trial: Trial) -> None:
        """Try the first batches."""
        from hookline_plugins.callback_parts.first_batch import try_first_batches

        self._warn(run, "while data, model and loss were built")
        try_first_batches(run, trial)

    @hookimpl(wrapper=True, tryfirst=True)
    def build_optimizer(self, run: RunView) -> Generator[None, Optimizer, Optimizer]:
        """Check the settings of the optimizer, and its parameters unless a plugin implements the step."""
        optimizer = yield
        name = next(str(member.plugin) for member in run.members if member.table == "optimizer")
        check_rates(optimizer, name)
        if not _owners_of_step(run):
            check_parameters(run, optimizer, name)
        return optimizer

    @hookimpl(wrapper=True, tryfirst=True)
    def build_step(self, run: RunView) -> Generator[None, object, object]:
        """Check that the step splits batches if it has to."""
        step = yield
        check_splitting(run)
        self._warn(run, "while optimizer and step were built")
        return step

    @hookimpl(tryfirst=True)
    def on_run_start(self, run: RunView) -> None:
        """Look at the process again: the program may have changed it. The first epoch may be over on resume."""
        if run.history:
            self._watch = None
        elif self._watch:
            self._watch.look()

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        """Warn of changes in the first epoch."""
        self._warn(run, "before the end of the first epoch")
        self._watch = None

    def _warn(self, run: RunView, phase: str) -> None:
        if self._watch:
            self._watch.warn(run, phase)


def _owners_of_step(run: RunView) -> list[str]:
    return [str(member.plugin) for member, is_wrapper in run.hook_order("build_step") if not is_wrapper]


def check_rates(optimizer: Optimizer, optimizer_name: str) -> None:
    """Check that the learning rates of an optimizer are finite, and that none of its other settings is NaN.

    Raises:
        ContractError: When one is not.
    """
    for name, value in (setting for group in optimizer.param_groups for setting in group.items()):
        if isinstance(value, float) and (math.isnan(value) or (name == "lr" and math.isinf(value))):
            message = f"{optimizer_name} has {name} = {value}, but it must be a finite number"
            raise ContractError(message, hint=f"check the option optimizer.{name}")


def check_splitting(run: RunView) -> None:
    """Check that the step splits batches if ``train.micro_batch_size`` is set.

    Raises:
        ConfigError: When it does not.
    """
    if not run.config.train.micro_batch_size or run.micro_batch_size is not None:
        return
    owner = (*_owners_of_step(run), f"the optimizer {type(run.optimizer).__name__}")[0]
    message = f"the step of {owner} does not split batches, but train.micro_batch_size is set"
    hint = "leave it at 0; a step that splits batches sets run.micro_batch_size"
    raise ConfigError(message, hint=hint)


def check_parameters(run: RunView, optimizer: Optimizer, optimizer_name: str) -> None:
    """Check that an optimizer has all parameters of the model that require gradients, once, and no unknown ones.

    Raises:
        ContractError: When it has a parameter twice, or one of neither model nor loss, or lacks some of the model.
    """
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    held = set(listed)
    if repeated := len(listed) - len(held):
        hint = "pass it each parameter once, as model.parameters() yields them, or its updates would be repeated"
        raise ContractError(f"{optimizer_name} has {repeated} parameters more than once", hint=hint)
    from torch import nn

    named = dict(run.model.named_parameters())
    of_loss = run.loss.parameters() if isinstance(run.loss, nn.Module) else ()
    if unknown := held - {id(parameter) for parameter in (*named.values(), *of_loss)}:
        hint = "create it with model.parameters() of the model that the hook receives"
        raise ContractError(f"{optimizer_name} has {len(unknown)} parameters of another model", hint=hint)
    if missing := [name for name, parameter in named.items() if parameter.requires_grad and id(parameter) not in held]:
        hint = "pass it all of model.parameters(), or freeze the others with requires_grad_(False)"
        raise ContractError(f"{optimizer_name} lacks parameters of the model: {', '.join(missing)}", hint=hint)
