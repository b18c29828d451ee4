"""``HostedRun``: a small run for observing a plugin, with a transcript of its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookline.config.loading import load_config
from hookline.engine.loop.run import Run
from hookline.testing.parts import (
    Recorder,
    closed_catalog,
    fitting_loss,
    gradient_descent,
    net,
    regression,
    usual_callbacks,
)


class HostedRun(Run):
    """A small run made of objects only: it uses no installed plugins.

    Its data are 24 examples for training, 8 for validation and 8 for a test, with inputs ``[3]`` and targets ``[1]``.
    A batch has 12 examples, so an epoch has two steps. There is one epoch.

    Args:
        plugins: A callback, or plugins by table: ``{"model": MyModel, "callbacks.mine": MyCallback()}``.
        config: Tables of a config, ``{"train": {"seed": 1}}``; give options of a plugin in ``overrides``.
        overrides: Values by dotted key that override the config: ``{"model.width": 8}``.
        epochs: Number of epochs; None leaves it to the config.

    Attributes:
        transcript: Every event so far, in order: ``on_epoch_start 1``, ``on_step_end 1``, ``on_run_end completed``.

    Example:
        >>> run = HostedRun()
        >>> _ = run.fit()
        >>> run.transcript[:3]
        ['on_run_start', 'on_epoch_start 1', 'on_step_end 1']
    """

    def __init__(
        self,
        plugins: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        epochs: int | None = None,
    ) -> None:
        recorder = Recorder()
        self.transcript = recorder.transcript
        if plugins is not None and not isinstance(plugins, Mapping):
            plugins = {"callbacks.plugin": plugins}
        parts = {"data": regression, "model": net, "loss": fitting_loss, "optimizer": gradient_descent}
        values = dict(overrides or {}) | ({} if epochs is None else {"train.epochs": epochs})
        # The recorder comes first, to record an event even if a plugin fails in it.
        objects = {**parts, "callbacks.transcript": recorder, **(plugins or {})}
        defaults = {"train": {"epochs": 1, "batch_size": 12}, "callbacks": usual_callbacks()}
        super().__init__(load_config(config, values, plugins=objects, defaults=defaults, catalog=closed_catalog()))
