"""A run -> its model with the weights that it has kept, ready to be asked: for predictions, and how good it is.

Nothing in the run folder is written. For predictions the training data need not be there any more: what was kept of
them is enough.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hookline.engine.config.loading import load_config
from hookline.engine.config.run_config import RunConfig
from hookline.engine.data import DataSource, Predictor
from hookline.engine.errors import ContractError, DataError, PluginError
from hookline.engine.loop.batch import brief, count_examples, placed
from hookline.engine.loop.building import Site, build_model
from hookline.engine.loop.evaluation import evaluation_mode
from hookline.engine.loop.rng import RandomState, preserved_rng
from hookline.engine.loop.run import Run
from hookline.engine.plugin.catalog import Catalog
from hookline.runs.folder import CONFIG, read_data
from hookline.runs.search import find_run
from hookline.trained.weights import Weights, _on_cpu, load_weights_into, read_weights


def load_trained(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    checkpoint: str | None = None,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
) -> Trained:
    """Return the model of a run with its weights, ready for predictions. The training data are not read.

    The arguments are those of ``evaluate_run``.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or those of another model.
        HooklineError: As ``Run`` does.
    """
    path = find_run(os.fspath(run), parent)
    config = load_config(path / CONFIG, overrides, catalog=catalog)
    weights = read_weights(path, checkpoint)
    sites: list[Site] = []
    built = Run(config, build=functools.partial(_build_model_alone, read_data(path), sites))
    notes = load_weights_into(built, weights, path)
    return Trained(sites[0], config, path, weights, (*weights.notes, *built.warnings, *notes))


class Trained:
    """A trained model, ready to be asked.

    Attributes:
        path: The run folder.
        weights: Where the weights are from: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps before them.
        warnings: What should be known of them.
        config: The config of the run.
        data: Sizes and names of the data that it was trained with; its dataset is one example of zeros.
        model: The model as its plugin built it, in eval mode.
    """

    def __init__(self, site: Site, config: RunConfig, path: Path, weights: Weights, warnings: tuple[str, ...]) -> None:
        self.path, self.weights, self.step, self.warnings = path, weights.origin, weights.step, warnings
        self.config, self.data = config, site.parts.data
        self.model: nn.Module = site.parts.unwrapped_model.eval()
        self._site = site

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._site.parts.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, and of all floating-point inputs."""
        return self._site.parts.dtype

    def placed(self, inputs: Any) -> Any:
        """Return inputs on the device of the model, and of its dtype."""
        return placed(inputs, self.device, self.dtype)

    def predict(self, inputs: Any) -> Any:
        """Return what the model gives for a batch of inputs ``[B, I]``, on the CPU, without gradients.

        The inputs are as the model was trained with them: scaled, for instance. ``predictions`` reads a file.
        """
        model = self._site.parts.model
        with torch.no_grad(), preserved_rng(), evaluation_mode(model):
            return _on_cpu(model(self.placed(inputs)))

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What reads inputs for the model, and names what it predicts.

        Raises:
            PluginError: When the data source cannot read new inputs.
        """
        return _build_predictor(self._site)

    def predictions(self, source: Path) -> Iterator[Mapping[str, Sequence[Any]]]:
        """Give what is predicted for the inputs of a file, in its order: columns by name, one batch after the other.

        Raises:
            DataError: When the file cannot be used; with every fault, at the latest when its end is reached.
            PluginError: When the data source cannot read new inputs.
            ContractError: When the columns are not those of a batch.
        """
        predictor, names = self.predictor, None
        for inputs in predictor.read(source, self.config.train.eval_batch_size):
            columns = predictor.columns(self.predict(inputs))
            _check_columns(columns, names, count_examples(inputs), str(self._site.host.owner("data")))
            names = list(columns)
            yield columns
        if names is None:
            raise DataError(f"{source} holds no inputs")


def _build_model_alone(kept: DataSource, sites: list[Site], site: Site) -> None:
    """Build the model alone, from the data source that was kept; its site is put into ``sites``."""
    site.parts.data = kept
    with RandomState(site.position.seed, "model").active():
        build_model(site)
    site.parts.loss = nn.Identity()  # it has no state, and is never called
    sites.append(site)


def _build_predictor(site: Site) -> Predictor:
    owner = site.host.owner("data")
    if not site.host.is_implemented("build_predictor"):
        hint = "its plugin needs a hook build_predictor; Python programs can ask the model itself: load_trained"
        raise PluginError(f"the data source {owner} reads no inputs to predict for", hint=hint)
    built = site.host.first_result("build_predictor", run=site.run, data=site.parts.data)
    if not (callable(getattr(built, "read", None)) and callable(getattr(built, "columns", None))):
        raise ContractError(
            f"build_predictor of {owner} returned {brief(built)}, but must return a Predictor",
            hint="an object with the methods read(path, batch_size) and columns(prediction)",
        )
    predictor: Predictor = built
    return predictor


def _check_columns(columns: Any, names: list[str] | None, num_examples: int, owner: str) -> None:
    if not isinstance(columns, Mapping) or not columns:
        raise ContractError(f"the predictor of {owner} gave {brief(columns)}, but must give columns by name")
    if names is not None and list(columns) != names:
        raise ContractError(f"the predictor of {owner} gave the columns {list(columns)} after {names}")
    if wrong := [name for name, values in columns.items() if len(values) != num_examples]:
        got = f"{len(columns[wrong[0]])} values for {num_examples} inputs"
        raise ContractError(f"the predictor of {owner} gave {got} in the column {wrong[0]!r}")
