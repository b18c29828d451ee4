"""Load the model of a saved run, ready to predict."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.data import DataSource
from hookline.engine.loop.building import Site, build_model
from hookline.engine.loop.run import Run
from hookline.engine.plugin.member import Member
from hookline.engine.plugin.observer import Observer
from hookline.engine.rng import RandomState
from hookline.runs.folder import expect_saved_weights, read_data, saved_config
from hookline.runs.overview.search import find_run
from hookline.trained.model import Trained
from hookline.trained.weights import load_weights_into, read_weights, version_notes


def load_trained(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    plugins: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    parent: str | os.PathLike[str] = "runs",
    catalog: Catalog | None = None,
) -> Trained:
    """Load the model of a run with its weights, ready to predict.

    The training data are not read, and nothing in the run folder is written. The arguments are those of
    ``evaluate_run``.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or belong to a different model.
        HooklineError: As ``Run`` raises it.
    """
    path = find_run(run, parent)
    config = load_config(saved_config(path), overrides, plugins=plugins, catalog=catalog)
    weights = read_weights(path, checkpoint)
    sites: list[Site] = []
    used = _UsedModel()
    built = Run(config, observers=[used], build=functools.partial(_build_model_alone, read_data(path), sites))
    load_weights_into(built, weights, path)
    for member in built.members:
        # A plugin whose model is trained in another form than it is used in: adapters that are merged, for instance.
        getattr(member.instance, "finish_model", bool)()
    return Trained(
        sites[0],
        used.model,
        config,
        path,
        weights,
        (*weights.notes, *version_notes(path, weights, config), *built.warnings),
    )


class _UsedModel(Observer):
    """Finds the model that is used: with the wrappers up to the last one that belongs to it.

    Attributes:
        model: The model, once it is built.
    """

    model: nn.Module

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - the model counts, too
        if hook == "build_model" and getattr(member.instance, "is_part_of_model", True):
            self.model = result
        return result


def _build_model_alone(data: DataSource, sites: list[Site], site: Site) -> None:
    """Build only the model, from the saved facts about the data; append its site to ``sites``."""
    expect_saved_weights(site.run)
    site.parts.data = data
    with RandomState(site.run.config.train.seed, "model").active():
        build_model(site)
    site.parts.loss = nn.Identity()  # it has no state, and is never called
    sites.append(site)
