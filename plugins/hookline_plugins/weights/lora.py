"""Callback ``lora``: low-rank adapters for some layers of a model, trained instead of its weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline_plugins.callback_parts.single import check_single
from hookline_plugins.optimizers.parameter_groups import is_match, name_hint
from hookline_plugins.optional import optional_package
from hookline_plugins.weights.init_from import InitFrom
from hookline_plugins.weights.left_out import leave_out

if TYPE_CHECKING:
    from torch import nn

    from hookline import RunView


@dataclass
class LoRA:
    """Low-rank adapters: a layer ``y = W x`` becomes ``y = W x + alpha / rank * B A x``, and only A and B are trained.

    A is ``[rank, in_features]``, B ``[out_features, rank]`` and 0 at first, so the model begins as it was built. By
    ``peft``, whose default ``rank`` and ``alpha`` these are. Source: E. J. Hu et al., "LoRA: Low-Rank Adaptation of
    Large Language Models", https://arxiv.org/abs/2106.09685.

    Patterns are those of ``fnmatch``: ``*`` matches any characters, ``?`` one. They are matched against the names in
    the model. List it before other callbacks that wrap the model.

    With ``save = "trained"``, checkpoints and ``model.safetensors`` leave out the weights that are not trained. Each
    use of the run builds them again, from the file that the model reads or from the seed; their SHA-256 is compared.
    A model that is loaded to predict or to be exported has the adapters merged into its weights.
    """

    targets: Annotated[
        tuple[str, ...], Meta(min_length=1, description="names of layers to adapt, or patterns such as '*.query'")
    ]
    rank: Annotated[int, Meta(ge=1, description="rank of the change of a layer's weights")] = 8
    alpha: Annotated[float, Meta(gt=0, description="scale of the change, divided by the rank")] = 8.0
    dropout: Annotated[float, Meta(ge=0, lt=1, description="probability of zeroing an input of an adapter")] = 0.0
    full: Annotated[
        tuple[str, ...], Meta(description="names of parameters to train in full, or patterns such as 'classifier.*'")
    ] = ()
    save: Annotated[
        Literal["trained", "all"], Meta(description="weights in checkpoints: those that are trained, or all")
    ] = "trained"

    def __post_init__(self) -> None:
        self._merge: Callable[[], object] = bool  # replaced once the model is built

    # Outside init-from and freeze, which use the names of the model without adapters.
    @hookimpl(wrapper=True)
    def build_model(self, run: RunView) -> Generator[None, Any, nn.Module]:
        """Put adapters into the layers, and freeze all other parameters."""
        check_single(run, self, "would freeze each other's adapters")
        if self.save == "trained" and any(isinstance(member.instance, InitFrom) for member in run.members):
            message = "lora leaves weights out of what is saved, which init-from loads only when a run begins"
            raise ConfigError(message, hint="save them: callbacks.lora.save = 'all'")
        model: nn.Module = yield
        peft = optional_package("peft", "lora needs")
        layers, parameters = _layers(model), dict(model.named_parameters())
        faults = [
            *_unmatched(self.targets, list(layers), "layer"),
            *_unmatched(self.full, list(parameters), "parameter"),
        ]
        if faults:
            raise ConfigError("lora names parts that the model does not have", faults=faults)
        names = [name for name in layers if is_match(name, self.targets)]
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="|".join(map(re.escape, names)),  # a list would match the ends of names
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transposed weights, which it finds and handles
            tuner = peft.LoraModel(model, config, "default")
        for name, parameter in parameters.items():
            if is_match(name, self.full):
                parameter.requires_grad_(True)
        restore = leave_out(model) if self.save == "trained" else bool

        def merge() -> None:
            restore()
            tuner.merge_and_unload(safe_merge=True)

        self._merge = merge
        return model

    def finish_model(self) -> None:
        """Merge the adapters into the weights, for a model that is no longer trained."""
        self._merge()


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can have adapters: linear layers, convolutions, embeddings."""
    from torch import nn

    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    # transformers' linear layer with transposed weights, as in GPT-2
    return {
        name: module
        for name, module in model.named_modules()
        if name and (isinstance(module, kinds) or type(module).__name__ == "Conv1D")
    }


def _unmatched(patterns: Sequence[str], names: Sequence[str], what: str) -> Iterator[Fault]:
    for pattern in patterns:
        if not any(is_match(name, [pattern]) for name in names):
            yield Fault(f"{pattern!r} matches no {what}", hint=name_hint(pattern, names))
