"""Callback ``mixed-precision``: the forward pass in a narrower type, the weights and the loss in float32."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, NonFiniteError, hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hookline import RunView


_DType = Literal["bfloat16", "float16"]


@dataclass
class MixedPrecision:
    """Runs the model in a narrower floating-point type, under ``torch.autocast``; the weights stay float32.

    Predictions are given as float32, so the loss is computed in float32. With ``float16``, whose largest number is
    65504, the loss is multiplied by a scale before gradients are taken, and the gradients divided by it:
    ``torch.amp.GradScaler``. The scale begins at 2^16. An update whose gradients are not finite is left out and halves
    the scale; 2000 updates without one double it. Everything else that a run does with gradients, such as clipping,
    happens after the division. Source: P. Micikevicius et al., "Mixed Precision Training",
    https://arxiv.org/abs/1710.03740.

    The default of ``max_skipped_steps`` takes the scale from its beginning down to 2^-16: whatever is not finite there
    is not so because of the scale.
    """

    dtype: Annotated[_DType, Meta(description="type of what the model computes")] = "bfloat16"
    max_skipped_steps: Annotated[
        int, Meta(ge=1, description="steps left out one after the other at which the run fails; for float16")
    ] = 32

    def __post_init__(self) -> None:
        self._scaler: torch.amp.GradScaler | None = None
        self._num_skipped = 0

    @hookimpl(wrapper=True)
    def build_model(self, run: RunView) -> Generator[None, Any, nn.Module]:
        """Run the model's forward pass under autocast."""
        import torch

        from hookline_plugins.callbacks.autocast import Autocast

        self.__post_init__()
        model = yield
        if run.config.train.dtype != "float32":
            message = f"mixed-precision needs train.dtype = 'float32', but it is {run.config.train.dtype!r}"
            raise ConfigError(message, hint="set train.dtype to 'float32', or switch mixed-precision off")
        if self.dtype == "float16":
            self._scaler = torch.amp.GradScaler(run.device.type)
        return Autocast(model, run.device.type, getattr(torch, self.dtype))

    # The innermost, so that whatever other plugins make of the loss is scaled as a whole.
    @hookimpl(wrapper=True, trylast=True)
    def build_backward(self) -> Generator[None, Any, Callable[[Tensor], None]]:
        """Take the gradients of the scaled loss, with float16."""
        backward = yield
        scaler = self._scaler
        return backward if scaler is None else lambda loss: backward(scaler.scale(loss))

    # The outermost, so that whatever other plugins do with gradients is done to those of the loss itself.
    @hookimpl(wrapper=True, tryfirst=True)
    def build_update(self, run: RunView) -> Generator[None, Any, Callable[[], None]]:
        """Update with the gradients of the loss itself, with float16; leave the update out if they are not finite."""
        update: Callable[[], None] = yield
        scaler = self._scaler
        if scaler is None:
            return update

        def unscaled_update() -> None:
            scale = scaler.get_scale()
            scaler.unscale_(run.optimizer)
            scaler.update()
            if scaler.get_scale() < scale:  # a gradient was not finite
                self._count_skipped(run, scale)
            else:
                self._num_skipped = 0
                update()

        return unscaled_update

    def _count_skipped(self, run: RunView, scale: float) -> None:
        self._num_skipped += 1
        if self._num_skipped < self.max_skipped_steps:
            return
        steps = "1 step" if self._num_skipped == 1 else f"{self._num_skipped} steps one after the other"
        raise NonFiniteError(
            f"the gradients are not finite in float16 in {steps}, at last with the loss times {scale:g} in step "
            f"{run.step + 1} (epoch {run.epoch}); these updates were left out",
            epoch=run.epoch,
            step=run.step + 1,
            indices=run.batch_indices(),
            hint="set dtype to 'bfloat16', or look for large values in the data, in the loss and in the weights",
        )

    @hookimpl
    def on_run_start(self) -> None:
        """Forget the steps that an earlier run left out."""
        self._num_skipped = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scale, None with bfloat16, and how many steps were left out since the last update."""
        scale = None if self._scaler is None else self._scaler.state_dict()
        return {"scale": scale, "num_skipped": self._num_skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._num_skipped = state["num_skipped"]
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scale"])
