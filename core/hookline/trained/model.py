"""A trained model: its predictions for batches of inputs and for files. The training data are not needed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hookline.config.run_config import RunConfig
from hookline.engine.data import Predictor
from hookline.engine.errors import ContractError, DataError
from hookline.engine.loop.building import Site
from hookline.engine.loop.evaluated_weights import EvaluatedWeights
from hookline.engine.loop.predicting import build_predictor, output_for, predicting
from hookline.engine.reading.batch import brief, count_examples, placed
from hookline.engine.result import Shown
from hookline.trained.weights import Weights


class Trained(Shown):
    """A trained model, ready to predict.

    Attributes:
        path: The run folder.
        weights: Origin of the weights: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps that they were trained for.
        warnings: Warnings about them.
        config: The config of the run.
        data: Sizes and names of the training data; its dataset is one example of zeros.
        model: The model with the wrappers that belong to it, in eval mode.
    """

    def __init__(
        self,
        site: Site,
        model: nn.Module,
        config: RunConfig,
        path: Path,
        weights: Weights,
        warnings: tuple[str, ...],
    ) -> None:
        self.path, self.weights, self.step, self.warnings = path, weights.origin, weights.step, warnings
        self.config, self.data = config, site.parts.data
        self.model = model.eval()
        self._site = site

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._site.parts.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights and of all floating-point inputs."""
        return self._site.parts.dtype

    def placed(self, inputs: Any) -> Any:
        """Return inputs on the device of the model, with its dtype."""
        return placed(inputs, self.device, self.dtype)

    def output(self, inputs: Any) -> Any:
        """Return the output of the model for a batch of inputs ``[B, I]``, on the CPU, without gradients.

        The inputs must be as in training: scaled, for instance.
        """
        return output_for(self._site.host, self._site.run, inputs)

    def predict(self, inputs: Any, *, probabilities: bool = False) -> Any:
        """Return the predictions for arrays or frames, as ``RunResult.predict`` does.

        Raises:
            DataError: When the inputs are not like those of the training; carries every fault.
            PluginError: When the data source reads no arrays.
        """
        return predicting(self._site.host, self._site.run, EvaluatedWeights())(inputs, probabilities=probabilities)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """Reader of inputs for the model, which also names its predictions.

        Raises:
            PluginError: When the data source cannot read new inputs.
        """
        return build_predictor(self._site.host, self._site.run)

    @property
    def writers(self) -> Mapping[str, Any]:
        """Functions of the predictor that write other files than CSV, by extension."""
        return getattr(self.predictor, "writers", {})

    def predictions(self, source: str | os.PathLike[str]) -> Iterator[Mapping[str, Sequence[Any]]]:
        """Yield the predictions for the inputs of a file, in its order: columns by name, one batch at a time.

        Raises:
            DataError: When the file cannot be used; carries every fault, at the latest at its end.
            PluginError: When the data source cannot read new inputs.
            ContractError: When the columns do not fit the batch.
        """
        predictor, names = self.predictor, None
        beside = getattr(predictor, "beside", dict)
        for inputs in predictor.read(Path(source), self.config.train.eval_batch_size):
            columns = predictor.columns(self.output(inputs))
            if isinstance(columns, Mapping):
                columns = {**beside(), **columns}
            check_columns(columns, names, count_examples(inputs), str(self._site.host.owner("data")))
            names = list(columns)
            yield columns
        if names is None:
            raise DataError(f"{source} contains no inputs")


def check_columns(columns: Any, names: list[str] | None, num_examples: int, owner: str) -> None:
    """Check the columns of a batch.

    Raises:
        ContractError: When they are no columns, or not those of the batch before, or of another length.
    """
    if not isinstance(columns, Mapping) or not columns:
        raise ContractError(f"the predictor of {owner} returned {brief(columns)}, but must return columns by name")
    if names is not None and list(columns) != names:
        raise ContractError(f"the predictor of {owner} returned the columns {list(columns)} after {names}")
    if wrong := [name for name, values in columns.items() if len(values) != num_examples]:
        got = f"{len(columns[wrong[0]])} values for {num_examples} inputs"
        raise ContractError(f"the predictor of {owner} returned {got} in the column {wrong[0]!r}")
