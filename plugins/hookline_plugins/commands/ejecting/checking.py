"""The check of a plugin's ``script``: a small run, and its script in the same process, have the same numbers."""

from __future__ import annotations

import io
import runpy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline import DataSource, hookimpl
from hookline.runs import identity_of
from hookline.trained import Snippet, only_watches
from hookline_plugins.commands.ejecting.verifying import epoch_differences, is_same, saved_in, weight_differences
from hookline_plugins.commands.ejecting.writing import script_of
from hookline_plugins.models.linear import Linear
from hookline_plugins.optimizers.torch_optimizers import Adam

if TYPE_CHECKING:
    from torch import nn

    from hookline import Run, RunView


class _Nothing:
    """A callback without effect, in the place of the kit's step that reads no batch."""

    script = only_watches

    @hookimpl
    def on_run_start(self) -> None:
        pass


class _FittingLoss:
    """A loss that fits the targets."""

    @hookimpl
    def build_loss(self, data: DataSource) -> nn.Module:
        from torch import nn

        loss = getattr(nn, _loss_name(data))()
        loss.batch_weight = None  # every target counts
        return loss  # type: ignore[no-any-return] # getattr has no type

    def script(self, run: RunView) -> Snippet:
        return Snippet(("from torch import nn",), setup=f"loss_function = nn.{_loss_name(run.data)}()")


def _loss_name(data: DataSource) -> str:
    target = data.train[0][1]
    return "MSELoss" if target.is_floating_point() else "CrossEntropyLoss"


def script_differences(build: Callable[[Mapping[str, Any]], Run]) -> list[str]:
    """Return the differences between a run and its script, which is executed in this process.

    Works in the current folder.

    Args:
        build: Returns a new run with other plugins, by table.

    Raises:
        ConfigError: When the run cannot be a script.
    """
    plugins = {"model": Linear(), "loss": _FittingLoss(), "optimizer": Adam(), "callbacks.step": _Nothing()}
    run = build(plugins)
    return differences_of(script_of(run, "checked", [], identity_of(run)), build(plugins), Path("checked.py"))


def differences_of(ejected: Any, run: Run, path: Path) -> list[str]:
    """Write a script, execute it in this process, and return the differences from a run that is then trained."""
    ejected.write(path)
    folder = path.with_suffix("")
    with _same_process():
        runpy.run_path(str(path))["main"](folder)
    own, weights = saved_in(folder)
    losses = [step.loss.item() for step in run.steps()]
    for number, (got, wanted) in enumerate(zip(own.steps, losses, strict=False), 1):
        if not is_same(got, wanted):
            return [f"step {number}: the loss is {got} in the script, and {wanted} in the run"]
    if len(losses) != len(own.steps):
        return [f"the script has {len(own.steps)} steps, and the run {len(losses)}"]
    trained = run.unwrapped_model.state_dict()
    return [*epoch_differences(own.epochs, run.history), *weight_differences(weights, trained)]


@contextmanager
def _same_process() -> Iterator[None]:
    """Restore what a script changes in its process, and discard its output."""
    import torch

    num_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), redirect_stdout(io.StringIO()):
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
