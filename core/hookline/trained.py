"""A run -> its model with the weights that it has kept, ready to be asked: for predictions, and how good it is.

Nothing in the run folder is written. For predictions the training data need not be there any more: what was kept of
them is enough.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hookline.batches import count_examples
from hookline.catalog import Catalog
from hookline.checkpoint import Checkpoint, checkpoints_in, read_checkpoint
from hookline.components import build_component, load_state_of_wrappers, state_of_wrappers
from hookline.config import Split, load_config
from hookline.data import DataSource, Predictor
from hookline.device import placed, with_parts
from hookline.errors import CheckpointError, ConfigError, ContractError, DataError, PluginError, did_you_mean
from hookline.identity import changes, model_faults
from hookline.rng import RandomState, preserved_rng
from hookline.run import Run
from hookline.run_record import RunRecord, read_record
from hookline.run_search import find_run
from hookline.rundir import CONFIG, MODEL, read_data, read_model
from hookline.step import brief, evaluation_mode

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LATEST = "latest"
"""What stands for the newest good checkpoint."""


@dataclass(frozen=True)
class Weights:
    """Weights that a run has kept.

    Attributes:
        model: The weights of the model, by name.
        origin: Where they are from: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps before them.
        identity: What the run was made of then.
        notes: What should be known of them.
        rest: Gives the state of the wrappers and of the loss that belongs to them; None if it was not kept.
    """

    model: Mapping[str, Tensor]
    origin: str
    step: int
    identity: Mapping[str, Any]
    notes: tuple[str, ...]
    rest: Callable[[], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Evaluation:
    """How good the model of a run is.

    Attributes:
        path: The run folder.
        weights: Where the weights are from: ``model.safetensors``, or the name of a checkpoint.
        step: Number of steps before them.
        num_examples: Number of examples of each split that was evaluated; None for a stream.
        metrics: The numbers, by split and name: ``validation/loss``.
        warnings: What should be known of them.
    """

    path: Path
    weights: str
    step: int
    num_examples: Mapping[str, int | None]
    metrics: Mapping[str, float]
    warnings: tuple[str, ...]


def evaluate_run(
    run: str | os.PathLike[str],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    splits: Sequence[str] = (),
    checkpoint: str | None = None,
    parent: Path = Path("runs"),
    catalog: Catalog | None = None,
) -> Evaluation:
    """Return how good the model of a run is on its data. No event is fired, and nothing is written.

    Args:
        run: Its folder, its number or its name.
        overrides: Values by dotted key that win over those of its config.
        splits: The splits to evaluate; default: all that the data have.
        checkpoint: ``latest`` or the folder of a checkpoint, in the place of the weights that the run ended with.
        parent: Where runs are looked for by number or name.
        catalog: The plugins that may be named; default: those installed.

    Raises:
        CheckpointError: When there are no such weights, or they are damaged or those of another model.
        ConfigError: When the data lack a split that is asked for.
        HooklineError: As ``Run`` does.
    """
    path = find_run(os.fspath(run), parent)
    if unknown := [name for name in splits if name not in _SPLITS]:
        raise ConfigError(f"there is no split {unknown[0]!r}", hint=did_you_mean(unknown[0], _SPLITS))
    wanted = list(splits or _SPLITS)
    switches = {"--split": {"train.evaluate": wanted}}
    config = load_config(path / CONFIG, overrides, switches=switches, catalog=catalog)
    weights = read_weights(path, checkpoint)
    built = Run(config)
    there = built.data.splits()
    if missing := [name for name in splits if f"{name}/loss" not in built.metric_names]:
        hint = f"it has {', '.join(there)}"
        raise ConfigError(f"the data have no split {missing[0]!r} that can be evaluated", hint=hint)
    notes = [*put_weights(built, weights, path), *_notes_on_data(built, weights)]
    metrics = dict(built.evaluate())
    evaluated = dict.fromkeys(name.partition("/")[0] for name in metrics)
    sizes = {name: _num_examples(there[name]) for name in evaluated}
    return Evaluation(path, weights.origin, weights.step, sizes, metrics, (*weights.notes, *built.warnings, *notes))


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
    asked = _AskedRun(config, read_data(path))
    notes = put_weights(asked, weights, path)
    return Trained(asked, path, weights.origin, weights.step, (*weights.notes, *asked.warnings, *notes))


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

    def __init__(self, run: _AskedRun, path: Path, weights: str, step: int, warnings: tuple[str, ...]) -> None:
        self.path, self.weights, self.step, self.warnings = path, weights, step, warnings
        self.config, self.data = run.config, run.data
        self.model: nn.Module = run.unwrapped_model.eval()
        self._run = run

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._run.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, and of all floating-point inputs."""
        dtype: torch.dtype = getattr(torch, self.config.train.dtype)
        return dtype

    def placed(self, inputs: Any) -> Any:
        """Return inputs on the device of the model, and of its dtype."""
        return placed(inputs, self.device, self.dtype)

    def predict(self, inputs: Any) -> Any:
        """Return what the model gives for a batch of inputs ``[B, I]``, on the CPU, without gradients.

        The inputs are as the model was trained with them: scaled, for instance. ``predictions`` reads a file.
        """
        model = self._run.model
        with torch.no_grad(), preserved_rng(), evaluation_mode(model):
            return _on_cpu(model(self.placed(inputs)))

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What reads inputs for the model, and names what it predicts.

        Raises:
            PluginError: When the data source cannot read new inputs.
        """
        return self._run.build_predictor()

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
            _check_columns(columns, names, count_examples(inputs), self._run.data_owner)
            names = list(columns)
            yield columns
        if names is None:
            raise DataError(f"{source} holds no inputs")


class _AskedRun(Run):
    """A run of which only the model is built, from what was kept of the data."""

    def __init__(self, config: Any, kept: DataSource) -> None:
        self._kept = kept
        super().__init__(config)

    def _build(self) -> None:
        self.data = self._kept
        with RandomState(self.seed, "model").active():
            model: nn.Module = build_component(self._host, "model", nn.Module, run=self, data=self.data)
            self.unwrapped_model = self._host.innermost("build_model")
            self.model = model.to(device=self.device, dtype=self._dtype)
        self.loss = nn.Identity()  # it has no state, and is never asked

    @property
    def data_owner(self) -> str:
        return str(self._host.owner("data"))

    def build_predictor(self) -> Predictor:
        if not self._host.is_implemented("build_predictor"):
            hint = "its plugin needs a hook build_predictor; Python programs can ask the model itself: load_trained"
            raise PluginError(f"the data source {self.data_owner} reads no inputs to predict for", hint=hint)
        built = self._host.call("build_predictor", run=self, data=self.data)
        if not (callable(getattr(built, "read", None)) and callable(getattr(built, "columns", None))):
            raise ContractError(
                f"build_predictor of {self.data_owner} returned {brief(built)}, but must return a Predictor",
                hint="an object with the methods read(path, batch_size) and columns(prediction)",
            )
        predictor: Predictor = built
        return predictor


# ---- weights ---------------------------------------------------------------------------------------------------------


def read_weights(path: Path, checkpoint: str | None = None) -> Weights:
    """Return the weights that a run has kept: those that it ended with, or those of its newest good checkpoint.

    Args:
        path: The run folder.
        checkpoint: ``latest``, or the folder of a checkpoint.

    Raises:
        CheckpointError: When there are none, or they are damaged.
    """
    record = read_record(path)
    if checkpoint not in (None, LATEST):
        return _of_checkpoint(_named_checkpoint(path, record, str(checkpoint)), ())
    is_finished = record.status in ("completed", "stopped") and record.model is not None
    if is_finished and checkpoint is None:
        return _of_end(path, record, ())
    found, damaged = _newest(path, record)
    if found:
        state = () if is_finished else (f"{path.name} is not finished: it is {record.status}",)
        return _of_checkpoint(found, (*state, *damaged))
    if record.model is None or checkpoint is not None:
        hint = damaged[0] if damaged else f"train it first: hookline resume {path}"
        raise CheckpointError(f"{path.name} has no good checkpoint", hint=hint)
    return _of_end(path, record, (f"{path.name} went on after these weights: it is {record.status}", *damaged))


def put_weights(run: Run, weights: Weights, path: Path) -> list[str]:
    """Put weights into the model of a run that was not begun; return what should be known of it.

    Raises:
        CheckpointError: When they are those of another model; carries every difference.
    """
    if faults := list(model_faults(weights.model, run.unwrapped_model.state_dict())):
        hint = "use the plugins and the config that the run was trained with"
        raise CheckpointError(f"{weights.origin} of {path.name} is that of another model", hint=hint, faults=faults)
    run.unwrapped_model.load_state_dict(weights.model)
    added = state_of_wrappers(run.model, run.unwrapped_model)
    of_loss = run.loss.state_dict() if isinstance(run.loss, nn.Module) else {}
    if not (added or of_loss):
        return []
    rest = weights.rest()
    if rest is None:
        what = " and ".join([*(["wrappers of the model"] if added else []), *(["the loss"] if of_loss else [])])
        return [f"no checkpoint has the state of {what} after step {weights.step}: it is that of the beginning"]
    try:
        load_state_of_wrappers(run.model, run.unwrapped_model, rest["wrappers"])
        if isinstance(run.loss, nn.Module) and of_loss:
            run.loss.load_state_dict(rest["loss"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights.origin} of {path.name} is that of another run: {error}") from error
    return []


def _of_end(path: Path, record: RunRecord, notes: tuple[str, ...]) -> Weights:
    try:
        model = read_model(path)
    except CheckpointError as error:
        hint = "take the newest checkpoint: --checkpoint latest"
        raise CheckpointError(error.message, hint=error.hint or hint) from error

    def rest() -> Mapping[str, Any] | None:
        found, _ = _newest(path, record)
        return found.state if found and found.manifest.step == record.step else None

    return Weights(model, MODEL, record.step, record.identity, notes, rest)


def _of_checkpoint(checkpoint: Checkpoint, notes: tuple[str, ...]) -> Weights:
    manifest, state = checkpoint.manifest, checkpoint.state
    if "model" not in state:
        raise CheckpointError(f"{checkpoint.path} lacks the model")
    return Weights(state["model"], checkpoint.path.name, manifest.step, manifest.identity, notes, lambda: state)


def _named_checkpoint(path: Path, record: RunRecord, name: str) -> Checkpoint:
    place = path / "checkpoints" / name if name == Path(name).name else Path(name)
    if not place.is_dir():
        known = [one.name for one in checkpoints_in(path / "checkpoints")]
        raise CheckpointError(f"there is no checkpoint {place}", hint=did_you_mean(place.name, known))
    return read_checkpoint(place, run=record.run)


def _newest(path: Path, record: RunRecord) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return the newest good checkpoint, and what is wrong with those that are newer. All stay where they are."""
    damaged: list[str] = []
    for place in checkpoints_in(path / "checkpoints"):
        try:
            return read_checkpoint(place, run=record.run), tuple(damaged)
        except CheckpointError as error:
            damaged.append(error.message)
    return None, tuple(damaged)


# ---- notes and checks ------------------------------------------------------------------------------------------------


def _notes_on_data(run: Run, weights: Weights) -> list[str]:
    then, now = weights.identity.get("data", {}), run.identity["data"]
    return [
        f"these are not the data that the run was trained with, and what the data source learns of data, such as "
        f"scales, it learned of these: {'; '.join(different)}"
        for different in [list(changes("the data", then, now))]
        if different
    ]


def _num_examples(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else with_parts(value, _on_cpu)


def _check_columns(columns: Any, names: list[str] | None, num_examples: int, owner: str) -> None:
    if not isinstance(columns, Mapping) or not columns:
        raise ContractError(f"the predictor of {owner} gave {brief(columns)}, but must give columns by name")
    if names is not None and list(columns) != names:
        raise ContractError(f"the predictor of {owner} gave the columns {list(columns)} after {names}")
    if wrong := [name for name, values in columns.items() if len(values) != num_examples]:
        got = f"{len(columns[wrong[0]])} values for {num_examples} inputs"
        raise ContractError(f"the predictor of {owner} gave {got} in the column {wrong[0]!r}")
