"""Predictions: the predictor of a data source, and the outputs of the model for its inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from hookline.engine.data import Predictor
from hookline.engine.errors import ContractError, PluginError
from hookline.engine.loop.evaluated_weights import EvaluatedWeights
from hookline.engine.loop.evaluation import evaluation_mode
from hookline.engine.plugin.host import Host
from hookline.engine.reading.batch import Forward, on_cpu, placed, prediction_of
from hookline.engine.rng import preserved_rng
from hookline.engine.view import RunView


def build_predictor(host: Host, run: RunView) -> Predictor:
    """Return the reader of new inputs for the model of a run.

    Raises:
        PluginError: When the data source has none.
        ContractError: When its hook returns anything else.
    """
    owner = host.owner("data")
    if not host.is_implemented("build_predictor"):
        hint = "its plugin needs a hook build_predictor; from Python, use the model itself: load_trained"
        raise PluginError(f"the data source {owner} reads no inputs to predict for", hint=hint)
    built: Predictor | None = host.first_result("build_predictor", run=run, data=run.data)
    if built is None:
        raise ContractError(f"build_predictor of {owner} returned nothing, but must return a Predictor")
    return built


def output_for(host: Host, run: RunView, inputs: Any) -> Any:
    """Return the predictions of the model for a batch of inputs as in training: on the CPU, without gradients."""
    inputs = placed(inputs, run.device, getattr(torch, run.config.train.dtype))
    forward = Forward(run.model, None, unwrapped=run.unwrapped_model)
    with torch.no_grad(), preserved_rng(), evaluation_mode(run.model), host.makers.attributing():
        return on_cpu(prediction_of(forward.output(inputs)))


def predicting(host: Host, run: RunView, weights: EvaluatedWeights) -> Callable[..., Any]:
    """Return the function from arrays or frames to their predictions, as the predictor of the data source makes them.

    It raises ``PluginError`` when the data source reads no arrays.
    """

    def predict(inputs: Any, **options: Any) -> Any:
        predictor: Any = build_predictor(host, run)
        if not hasattr(predictor, "predict"):
            hint = "pass a file to the predictions of load_trained, or prepared inputs to the model"
            raise PluginError(f"the data source {host.owner('data')} predicts for files, not for arrays", hint=hint)
        with weights.loaded():
            return predictor.predict(
                partial(output_for, host, run), inputs, run.config.train.eval_batch_size, **options
            )

    return predict
