"""Callback ``prune``: report a metric to the sweep of a trial, and end the run when the trial is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import hookimpl
from hookline.trained import only_watches
from hookline_plugins.commands.sweeping.journal import open_journal
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from hookline import RunView


@dataclass
class Prune:
    """The end of a trial whose metric is worse than the median of the earlier trials at the same epoch.

    ``hookline sweep --prune`` adds it to each trial. The metric of each epoch is written to the journal of the sweep.
    The first 5 trials are not ended: Optuna's default, ``MedianPruner(n_startup_trials=5)``.
    """

    script = only_watches

    ranks: ClassVar = "zero"
    folder: Annotated[Path, Meta(description="folder of the sweep")]
    trial: Annotated[int, Meta(ge=0, description="number of the trial")]
    monitor: Annotated[str, Meta(description="metric to report; empty: the loss")] = ""

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()  # other plugins may change the current folder
        self._journal: Any = None
        self._study: Any = None
        self._id = 0

    @hookimpl
    def on_run_start(self) -> None:
        """Open the journal."""
        optuna = optional_package("optuna", "prune needs", "sweep")
        self._journal = open_journal(self.folder)
        [study] = self._journal.get_all_studies()
        self._study = optuna.load_study(
            study_name=study.study_name, storage=self._journal, pruner=optuna.pruners.MedianPruner()
        )
        self._id = self._study.get_trials(deepcopy=False)[self.trial]._trial_id  # noqa: SLF001 - no other way from another process

    @hookimpl
    def on_epoch_end(self, run: RunView, metrics: Mapping[str, float]) -> None:
        """Report the metric, and stop the run if the trial is pruned."""
        value = metrics.get(self.monitor or loss_in(metrics))
        trial = self._journal.get_trial(self._id)
        if value is None or trial.state.is_finished():
            return
        self._journal.set_trial_intermediate_value(self._id, run.epoch, float(value))
        # A trial that was ended before its last state was saved ends again, whatever the others did since.
        is_pruned = "pruned" in trial.user_attrs or self._study.pruner.prune(
            self._study, self._journal.get_trial(self._id)
        )
        if is_pruned:
            self._journal.set_trial_user_attr(self._id, "pruned", run.epoch)
            run.request_stop(f"trial {self.trial} is pruned: it is worse than the median of the earlier ones")


def loss_in(metrics: Mapping[str, Any]) -> str:
    """Return the name of the loss by which runs are compared: that of the validation, if it is measured."""
    return next((name for name in ("validation/loss", "train/loss") if name in metrics), "train/running_loss")
