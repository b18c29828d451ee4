"""``TorchLoss``: the base of the losses of torch, whose options are the arguments of torch's class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, DataError, DataSource
from hookline.trained import Snippet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import RunView


class TorchLoss:
    """A dataclass ``NAME`` for the class ``NAMELoss`` of ``torch.nn``, with options under torch's names."""

    def of_torch(self, **changed: Any) -> nn.Module:
        """Return torch's loss with the options, except those that are ``changed``."""
        from torch import nn

        make = getattr(nn, f"{type(self).__name__}Loss")
        options: Any = self
        built: nn.Module = make(**{**asdict(options), **changed})
        return built

    def elementwise(self, **changed: Any) -> nn.Module:
        """Return torch's loss with the options, for one that would broadcast a prediction and a target in silence."""
        built = self.of_torch(**changed)
        built.register_forward_pre_hook(_check_shapes)
        return built


def script_of_torch(loss: Any, run: RunView) -> Snippet:  # noqa: ARG001 - the form of the method
    """Return a loss as source code: the ``script`` of one that is torch's class with its options."""
    from torch import nn

    from hookline_plugins.commands.ejecting.text import call, changed

    name = f"{type(loss).__name__}Loss"
    options = changed(getattr(nn, name), {key: value for key, value in asdict(loss).items() if value != ()})
    return Snippet(("from torch import nn",), setup=call(f"loss_function = nn.{name}", **options))


def _check_shapes(_: nn.Module, arguments: tuple[Tensor, Tensor]) -> None:
    prediction, target = arguments
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")


def keep_weight(loss: nn.Module, name: str, count: Callable[[], Tensor] | None) -> None:
    """Keep a weight of a loss in its state if it was counted in data, and only then: numbers follow from the config.

    Args:
        loss: The loss.
        name: The weight, one of its buffers.
        count: Counts the weight, for a state that lacks it, because the run began with numbers; None for numbers.
    """
    if count is None:
        loss.register_buffer(name, getattr(loss, name), persistent=False)

    def before_load(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        if count is None:
            state.pop(prefix + name, None)
        elif prefix + name not in state:
            state[prefix + name] = count()

    loss.register_load_state_dict_pre_hook(before_load)  # type: ignore[no-untyped-call] # torch leaves it so


def check_signs(data: DataSource, loss_name: str) -> None:
    """Check that all targets in memory are 1 or -1; with a target of 0, an example would not count.

    Raises:
        DataError: When one is another number.
    """
    from torch.utils.data import TensorDataset

    for split, dataset in data.splits().items():
        if data.collate is None and type(dataset) is TensorDataset and (targets := dataset.tensors[-1]).numel():
            wrong = targets[targets.abs() != 1]
            if wrong.numel():
                message = f"{loss_name} needs targets 1 and -1, but the {split} split has {float(wrong[0]):g}"
                hint = "for targets 0 and 1 use loss=bce-with-logits, or make them 2 * target - 1"
                raise DataError(message, hint=hint)


def check_length(name: str, given: int, expected: int | None, what: str) -> None:
    """Check that an option has a number for each class or output, if their number is known.

    Raises:
        ConfigError: When it has not.
    """
    if expected is not None and given != expected:
        message = f"loss.{name} has {given} numbers, but the data have {expected} {what}"
        raise ConfigError(message, hint=f"give one number for each, or omit {name}")
