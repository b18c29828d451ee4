"""Data source ``synthetic-linear``: examples of a linear function with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from hookline import DataSource, hookimpl
from hookline.trained import only_watches

if TYPE_CHECKING:
    import torch

    from hookline import Outcome, RunView


@dataclass
class SyntheticLinear:
    r"""Examples of ``y = x . true_w + true_b + e``, with ``x ~ N(0, 1)`` and ``e ~ N(0, noise_std)``.

    Inputs are float32 ``[num_examples, I]`` with a feature for each weight in ``true_w``; targets are float32
    ``[num_examples, 1]``. If the model is linear, the learned weights are reported next to the true ones when the run
    ends.

    The defaults are the data of Zhang et al., *Dive into Deep Learning*, section 3.3.
    """

    script = only_watches

    num_examples: Annotated[int, Meta(ge=1, description="number of examples")] = 1000
    true_w: Annotated[tuple[float, ...], Meta(min_length=1, description="true weights, one for each input feature")] = (
        2.0,
        -3.4,
    )
    true_b: Annotated[float, Meta(description="true bias")] = 4.2
    noise_std: Annotated[float, Meta(ge=0, description="standard deviation of the noise added to each target")] = 0.01

    @hookimpl
    def build_data(self, run: RunView) -> DataSource:
        """Generate the examples."""
        import torch
        from torch.utils.data import TensorDataset

        generator = run.generator("data")
        weight = torch.tensor(self.true_w, dtype=torch.float32)
        inputs = torch.randn(self.num_examples, len(self.true_w), generator=generator, dtype=torch.float32)
        noise = torch.randn(self.num_examples, generator=generator, dtype=torch.float32) * self.noise_std
        targets = inputs @ weight + self.true_b + noise
        return DataSource(
            train=TensorDataset(inputs, targets.unsqueeze(1)),
            in_features=len(self.true_w),
            out_features=1,
            feature_names=tuple(f"x{number}" for number in range(1, len(self.true_w) + 1)),
            target_names=("y",),
            task="regression",
        )

    @hookimpl
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Report the learned weights next to the true ones."""
        from torch import nn

        layer = run.unwrapped_model
        if outcome in ("interrupted", "failed") or not isinstance(layer, nn.Linear) or layer.out_features != 1:
            return
        # nn.Linear(bias=False) has None here, despite the annotation.
        bias: torch.Tensor | None = layer.bias
        learned = [*layer.weight.detach()[0].tolist(), 0.0 if bias is None else bias.item()]
        names = [*(f"w{number}" for number in range(1, len(self.true_w) + 1)), "b"]
        run.report(
            "learned and true parameters",
            [
                {"parameter": name, "learned": got, "true": true, "error": got - true}
                for name, got, true in zip(names, learned, (*self.true_w, self.true_b), strict=True)
            ],
        )
