"""Callback ``mixed-precision``: the forward pass in a lower-precision type, weights and loss in float32."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from hookline import ConfigError, NonFiniteError, hookimpl
from hookline.trained import Snippet

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hookline import RunView


_FORWARD = '''
def forward(model, x):
    """Return predictions in float32 that were computed in bfloat16 where it is safe."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x).float()
'''
_DType = Literal["bfloat16", "float16"]


@dataclass
class MixedPrecision:
    """Mixed precision: the model runs in a lower-precision type under ``torch.autocast``, with float32 weights.

    Predictions are cast to float32, so the loss is computed in float32. With ``float16``, whose largest number is
    65504, the loss is multiplied by a scale before the backward pass, and the gradients are divided by it:
    ``torch.amp.GradScaler``. The scale starts at 2^16. An update with non-finite gradients is skipped and halves the
    scale; 2000 updates in a row without one double it. Everything else that a run does with gradients, such as
    clipping, happens after the division. Source: P. Micikevicius et al., "Mixed Precision Training",
    https://arxiv.org/abs/1710.03740.

    The default ``max_skipped_steps`` lowers the scale to 2^-16; gradients that are still not finite there have another
    cause than the scale.
    """

    is_part_of_model: ClassVar[bool] = False  # the weights are those of float32

    dtype: Annotated[_DType, Meta(description="type in which the model computes")] = "bfloat16"
    max_skipped_steps: Annotated[
        int, Meta(ge=1, description="consecutive skipped steps after which the run fails; for float16")
    ] = 32

    def __post_init__(self) -> None:
        self._scaler: torch.amp.GradScaler | None = None
        self._num_skipped = 0

    @hookimpl(wrapper=True)
    def build_model(self, run: RunView) -> Generator[None, Any, nn.Module]:
        """Run the model's forward pass under autocast."""
        import torch

        from hookline_plugins.callback_parts.autocast import Autocast

        self.__post_init__()
        model = yield
        if run.config.train.dtype != "float32":
            message = f"mixed-precision needs train.dtype = 'float32', but it is {run.config.train.dtype!r}"
            raise ConfigError(message, hint="set train.dtype to 'float32', or switch mixed-precision off")
        if self.dtype == "float16":
            self._scaler = torch.amp.GradScaler(run.device.type)
        return Autocast(model, run.device.type, getattr(torch, self.dtype))

    # The innermost, so that what other plugins add to the loss is scaled, too.
    @hookimpl(wrapper=True, trylast=True)
    def build_backward(self) -> Generator[None, Any, Callable[[Tensor], None]]:
        """Run the backward pass on the scaled loss, with float16."""
        backward = yield
        scaler = self._scaler
        return backward if scaler is None else lambda loss: backward(scaler.scale(loss))

    # The outermost, so that other plugins see the unscaled gradients.
    @hookimpl(wrapper=True, tryfirst=True)
    def build_update(self, run: RunView) -> Generator[None, Any, Callable[[], None]]:
        """Unscale the gradients, with float16; skip the update if they are not finite."""
        update: Callable[[], None] = yield
        scaler = self._scaler
        if scaler is None:
            return update

        def unscaled_update() -> None:
            scale = scaler.get_scale()
            scaler.unscale_(run.optimizer)
            scaler.update()
            if scaler.get_scale() < scale:  # a gradient was not finite
                if run.finite_guard.accepts_losses():
                    self._count_skipped(run, scale)
            else:
                self._num_skipped = 0
                update()

        return unscaled_update

    def _count_skipped(self, run: RunView, scale: float) -> None:
        self._num_skipped += 1
        if self._num_skipped < self.max_skipped_steps:
            return
        steps = "1 step" if self._num_skipped == 1 else f"{self._num_skipped} consecutive steps"
        raise NonFiniteError(
            f"the gradients are not finite in float16 in {steps}, most recently with the loss scaled by {scale:g} in "
            f"step {run.step + 1} (epoch {run.epoch}); these updates were skipped",
            epoch=run.epoch,
            step=run.step + 1,
            indices=run.batch_indices(),
            hint="set dtype to 'bfloat16', or look for large values in the data, the loss and the weights",
        )

    @hookimpl
    def on_run_start(self) -> None:
        """Reset the count of skipped steps."""
        self._num_skipped = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scale, None with bfloat16, and the number of steps skipped since the last update."""
        scale = None if self._scaler is None else self._scaler.state_dict()
        return {"scale": scale, "num_skipped": self._num_skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from ``state_dict``; a run that had no scale so far keeps the initial one."""
        self._num_skipped = state["num_skipped"]
        if self._scaler is not None and state["scale"] is not None:
            self._scaler.load_state_dict(state["scale"])

    def script(self, run: RunView) -> Snippet:  # noqa: ARG002 - the form of the method
        """Return the forward pass as source code.

        Raises:
            ConfigError: With float16, whose scaled updates may be skipped.
        """
        if self.dtype == "float16":
            raise ConfigError("dtype = 'float16' has no script", hint="set dtype = 'bfloat16'")
        return Snippet(definitions=_FORWARD.strip(), forward="forward")
