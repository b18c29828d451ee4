"""Model ``transformers``: a model of the package ``transformers``, from a config or from a local folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, DataError, DataSource, Fault, HooklineError, hookimpl
from hookline.engine import did_you_mean
from hookline_plugins.data.columns import each
from hookline_plugins.models.model_folder import read_config, read_weights
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from hookline import RunView


_Task = Literal["sequence-classification", "token-classification", "causal-lm", "image-classification"]
_AUTO: Mapping[_Task, tuple[str, str]] = {
    "sequence-classification": (
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    ),
    "token-classification": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    "causal-lm": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "image-classification": ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
}
"""The class of transformers for each task, and the name of its table from architectures to classes."""
_ENCODER = ("AutoModel", "MODEL_MAPPING_NAMES")
"""The same for a model without a head."""
_SHOWN = 5
"""Number of names to show in a message."""


@dataclass
class Transformers:
    """A model of the package ``transformers``: new, of an architecture, or with the weights of a local folder.

    Batches are mappings of the arguments of the model, such as ``input_ids`` and ``attention_mask``, each ``[B, T]``,
    or ``pixel_values`` ``[B, C, H, W]``, and ``labels``; or pairs of such a mapping without ``labels``, and the labels.
    Pairs of images and labels, as the data source ``images`` gives them, set the size and the channels of a new model.

    Nothing is downloaded, unpickled or imported from the folder: Hookline reads ``config.json`` and the safetensors
    files, and transformers gets values and tensors. A head with another number of classes than the data is made anew.

    With ``pooling = "mean"``, a sequence is classified by a new linear layer on the mean of the hidden states of its
    tokens, as sentence encoders are trained; with ``"model"`` by the head that transformers has for the architecture.
    """

    task: Annotated[_Task, Meta(description="what the model is for")]
    folder: Annotated[
        Path | None, Meta(description="folder with config.json and model.safetensors; none: new weights")
    ] = None
    architecture: Annotated[
        str, Meta(description="architecture of a model without a folder, such as 'bert', 'gpt2', 'vit'")
    ] = ""
    config: Annotated[
        dict[str, Any], Meta(description="values of the architecture's config, such as hidden_size; win over the file")
    ] = field(default_factory=dict)
    attention: Annotated[
        Literal["sdpa", "eager"], Meta(description="torch's fused attention, or one operation after the other")
    ] = "sdpa"
    pooling: Annotated[
        Literal["model", "mean"],
        Meta(description="head of sequence-classification: the model's, or the mean of tokens"),
    ] = "model"

    def __post_init__(self) -> None:
        if (self.folder is None) == (not self.architecture):
            raise ValueError("set either `folder` or `architecture`")
        if self.pooling == "mean" and self.task != "sequence-classification":
            raise ValueError(f"`pooling` = 'mean' is for task = 'sequence-classification', not {self.task!r}")
        self._note = ""

    @hookimpl
    def build_model(self, run: RunView, data: DataSource) -> nn.Module:
        """Make the model, with the weights of the folder if there is one."""
        import torch

        values = read_config(self.folder) if self.folder else {"model_type": self.architecture}
        transformers = optional_package("transformers", "the model transformers needs")
        auto, table = _AUTO[self.task] if self.pooling == "model" else _ENCODER
        name = _class_name(transformers, self.task, table, values)
        dtype = getattr(torch, run.config.train.dtype)
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": self.attention}
        with _silent(transformers), _refusing(values["model_type"]):
            config = self._made_config(transformers, values, data)
            if self.folder is None:
                model: nn.Module = getattr(transformers, auto).from_config(config, **options)
            else:
                model, found = getattr(transformers, name).from_pretrained(
                    None,
                    config=config,
                    state_dict=read_weights(self.folder),
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    local_files_only=True,
                    **options,
                )
                self._note = self._loaded(found, len(model.state_dict()))
            if self.pooling == "mean":
                from hookline_plugins.models.mean_pooled import MeanPooled

                return MeanPooled(transformers, model).train()
            # Found now, not in the first step with a warning that says nothing to a user.
            model.loss_function = model.loss_function
        return model.train()

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Warn of weights that are not those of the folder; a run that resumes has its own."""
        if self._note and run.step == 0:
            run.warn(self._note)

    def _made_config(self, transformers: ModuleType, values: Mapping[str, Any], data: DataSource) -> Any:
        """Return the config of the model: the values of the folder, the sizes of the data, the values of the option.

        Raises:
            ConfigError: If an option is unknown.
        """
        kind = transformers.CONFIG_MAPPING[values["model_type"]]
        known = {*kind().to_dict(), *kind.attribute_map, "num_labels"} - {"model_type"}
        if unknown := sorted(self.config.keys() - known):
            faults = [Fault(f"config has no {key!r}", hint=did_you_mean(key, known)) for key in unknown]
            raise ConfigError(f"model.config does not fit the architecture {values['model_type']!r}", faults=faults)
        sizes = {**(_image_sizes(data) if self.task == "image-classification" else {}), **values}
        sizes = {key: value for key, value in sizes.items() if key in known or key in values}
        made = {**sizes, **_sizes(self.task, values, data), **self.config}
        if self.folder is None and "vocab_size" in data.kept:
            made.setdefault("vocab_size", data.kept["vocab_size"])
        if "num_labels" in made:  # which the names of other classes would overrule
            made = {key: value for key, value in made.items() if key not in ("id2label", "label2id")}
        config = kind.from_dict(made)
        _check_tokens(config, data)
        return config

    def _loaded(self, found: Mapping[str, Any], num_weights: int) -> str:
        """Return a note on the weights that were not found in the folder, or not used.

        Raises:
            ConfigError: If none was found.
        """
        new = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
        if len(new) >= num_weights:
            hint = f"the file has, for instance, {_shown(sorted(found['unexpected_keys']))}"
            raise ConfigError(f"{self.folder} has no weight of this model", hint=hint)
        unused = sorted(found["unexpected_keys"])
        notes = [f"{text}: {_shown(names)}" for text, names in (("new", new), ("not used", unused)) if names]
        return f"weights of {self.folder} that differ from those of the model: {'; '.join(notes)}" if notes else ""


def _check_tokens(config: Any, data: DataSource) -> None:
    """Check that a model has an embedding for each token and each position of the data, if these say how many.

    Raises:
        ConfigError: If it has not.
    """
    faults = []
    num_tokens, num_positions = data.kept.get("vocab_size", 0), data.kept.get("max_length", 0)
    if num_tokens > (known := getattr(config, "vocab_size", None) or num_tokens):
        hint = "give the data source the tokenizer of the model: data.tokenizer=FOLDER"
        faults.append(Fault(f"the data have {num_tokens:,} different tokens, and the model {known:,}", hint=hint))
    if num_positions > (known := getattr(config, "max_position_embeddings", None) or num_positions):
        message = f"texts may have {num_positions:,} tokens, and the model has {known:,} positions"
        faults.append(Fault(message, hint=f"data.max_length={known}"))
    if faults:
        raise ConfigError("the model does not fit the tokens of the data", faults=faults)


def _class_name(transformers: ModuleType, task: _Task, table: str, values: Mapping[str, Any]) -> str:
    """Return the name of the class for a task and a config, from a table of transformers.

    Raises:
        ConfigError: If transformers has no such architecture, or not for this task.
    """
    auto = transformers.models.auto.modeling_auto
    classes: Mapping[str, Any] = getattr(auto, table)
    architecture = values["model_type"]
    if architecture not in classes:
        hint = did_you_mean(architecture, classes)
        if "auto_map" in values:
            hint = "its code is in the folder, which is never run; use a release of transformers that has it"
        raise ConfigError(f"transformers has no architecture {architecture!r} for {task}", hint=hint)
    names = classes[architecture]
    if isinstance(names, str):
        return names
    return next((name for name in names if name in values.get("architectures", ())), str(names[0]))


def _sizes(task: _Task, values: Mapping[str, Any], data: DataSource) -> dict[str, Any]:
    """Return what the data say about the config of a model: its classes."""
    if task == "causal-lm":
        return {"use_cache": False}  # of keys and values of earlier tokens, for generating alone
    if data.class_names:
        return {
            "id2label": dict(enumerate(data.class_names)),
            "label2id": {n: i for i, n in enumerate(data.class_names)},
        }
    num_classes, known = data.out_features, values.get("id2label", {})
    return {"num_labels": num_classes} if num_classes and num_classes != len(known) else {}


def _image_sizes(data: DataSource) -> dict[str, Any]:
    """Return what an image ``[C, H, W]`` says about the config of a new model; nothing without one."""
    try:
        channels, height, width = each(data.train, lambda example: list(example[0].shape), 1)[0].tolist()
    except (DataError, ValueError):  # a mapping, or no image
        return {}
    return {"num_channels": channels, "image_size": height if height == width else [height, width]}


@contextmanager
def _refusing(architecture: str) -> Iterator[None]:
    """Replace an error of transformers, unless memory ran out, by a ConfigError with its last line."""
    from hookline.engine import is_out_of_memory

    try:
        yield
    except HooklineError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        message = f"transformers cannot make the model {architecture!r} from its config: {last}"
        raise ConfigError(message, hint="check the values of model.config") from error


@contextmanager
def _silent(transformers: ModuleType) -> Iterator[None]:
    """Keep transformers from printing: progress bars, and reports that Hookline gives itself."""
    logging = transformers.utils.logging
    level, is_shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if is_shown:
            logging.enable_progress_bar()


def _shown(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
