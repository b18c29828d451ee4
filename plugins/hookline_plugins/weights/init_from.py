"""Callback ``init-from``: initial weights from a run, or from a ``.safetensors`` file."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from hookline import CheckpointError, ConfigError, Fault, hookimpl
from hookline.engine import did_you_mean, error_text
from hookline.runs import find_run, has_saved_weights
from hookline_plugins.optimizers.parameter_groups import is_match

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline import RunView

_SHOWN = 5
"""Number of names in a row of the report."""
_EXTENSION = ".safetensors"
_CONVERT = "convert it once: see the guide 'Start from other weights'"


@dataclass
class InitFrom:
    """Initial weights from a run, or from a ``.safetensors`` file, instead of those that the model draws.

    They are loaded into the model as its plugin built it, where a run begins. A run that is resumed, evaluated or used
    has its own weights, and needs neither the other run nor the file any more.

    Patterns are those of ``fnmatch``: ``*`` matches any characters, ``?`` one. They are matched against the names in
    the file. Nothing is unpickled.

    With ``misfits = "fail"``, each weight that is taken has to fit a weight of the model in name and shape; without
    patterns, each weight of the model has to be there, too. A table in the summary of the run lists what was loaded.
    """

    run: Annotated[str | int, Meta(description="number, name or folder of a run")] = ""
    checkpoint: Annotated[
        str, Meta(description="checkpoint of the run: 'latest' or a name; empty: its final weights")
    ] = ""
    path: Annotated[Path | None, Meta(description=".safetensors file, instead of a run")] = None
    take: Annotated[tuple[str, ...], Meta(min_length=1, description="names of weights to load, or patterns")] = ("*",)
    rename: Annotated[
        dict[str, str], Meta(description="beginnings of names, and what they are in the model: {'bert.' = 'encoder.'}")
    ] = field(default_factory=dict)
    misfits: Annotated[
        Literal["fail", "skip"], Meta(description="what to do if weights are missing, unknown or of another shape")
    ] = "fail"

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.path):
            raise ValueError("give either `run` or `path`")
        if self.checkpoint and not self.run:
            raise ValueError("`checkpoint` needs `run`")

    # The innermost, so that no other wrapper changes the names.
    @hookimpl(wrapper=True, trylast=True)
    def build_model(self, run: RunView) -> Generator[None, Any, nn.Module]:
        """Load the weights, unless the run will get saved ones."""
        model: nn.Module = yield
        if not has_saved_weights(run):
            origin, values = _read_file(self.path) if self.path else _read_run(str(self.run), self.checkpoint)
            self._load(run, model, origin, self._chosen(values, origin))
        return model

    def _chosen(self, values: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
        """Return the weights to load, with their names in the model.

        Raises:
            ConfigError: When a pattern matches no weight, no name has a beginning, or two get the same name.
        """
        taken = [name for name in values if is_match(name, self.take)]
        faults = [
            Fault(f"{pattern!r} matches no weight", hint=_name_hint(pattern, list(values)))
            for pattern in self.take
            if not any(is_match(name, [pattern]) for name in values)
        ]
        faults += [
            Fault(f"no weight that is taken begins with {start!r}", hint=_name_hint(start, taken))
            for start in self.rename
            if not any(name.startswith(start) for name in taken)
        ]
        chosen: dict[str, Tensor] = {}
        for name in taken:
            start = max((start for start in self.rename if name.startswith(start)), key=len, default=None)
            renamed = name if start is None else self.rename[start] + name.removeprefix(start)
            if renamed in chosen:
                faults.append(Fault(f"two weights get the name {renamed!r}, one of them {name!r}"))
            chosen[renamed] = values[name]
        if faults:
            raise ConfigError(f"init-from does not fit {origin}", faults=faults)
        return chosen

    def _load(self, run: RunView, model: nn.Module, origin: str, values: Mapping[str, Tensor]) -> None:
        """Load weights into a model, and report which.

        Raises:
            CheckpointError: When none fits, or some do not and that is no option; lists all that do not.
        """
        import torch

        there = {name: value for name, value in model.state_dict(keep_vars=True).items() if _is_tensor(value)}
        fit = _compare(there, values)
        is_whole = self.take == ("*",)
        faults = [*fit.faults, *(fit.missing_faults if is_whole else ())]
        if not fit.loaded or (faults and self.misfits == "fail"):
            hint = "choose weights with `take` and `rename`, or load those that fit: misfits = 'skip'"
            raise CheckpointError(f"{origin} does not fit the model", hint=hint, faults=faults or fit.missing_faults)
        with torch.no_grad():
            for name in fit.loaded:
                there[name].copy_(values[name])
        if faults:
            run.warn(f"{len(faults)} weights do not fit between {origin} and the model: see its table in the summary")
        run.report(f"initial weights: {origin}", list(fit.rows()))


class _Fit(NamedTuple):
    """A comparison of weights with those of a model.

    Attributes:
        loaded: Names of the weights that fit.
        missing: Names of the weights of the model that are not there.
        unknown: Names of the weights that the model does not have.
        different: Names of the weights of another shape or kind, each with the difference.
    """

    loaded: Sequence[str]
    missing: Sequence[str]
    unknown: Sequence[str]
    different: Mapping[str, str]

    @property
    def faults(self) -> list[Fault]:
        """Faults of the weights that do not fit."""
        unknown = [Fault(f"{name!r} is not in the model", hint=_name_hint(name, self.missing)) for name in self.unknown]
        return [*unknown, *(Fault(f"{name!r} is {text}") for name, text in self.different.items())]

    @property
    def missing_faults(self) -> list[Fault]:
        """Faults of the weights of the model that are missing."""
        return [Fault(f"{name!r} of the model is missing") for name in self.missing]

    def rows(self) -> Iterator[dict[str, str | int]]:
        """Yield the rows of the report."""
        different = [f"{name} ({text})" for name, text in self.different.items()]
        groups = {
            "loaded": self.loaded,
            "not in the model": self.unknown,
            "other shape, not loaded": different,
            "missing, as initialized": self.missing,
        }
        for kind, names in groups.items():
            if names:
                yield {"weights": kind, "number": len(names), "names": _listed(names)}


def _compare(there: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> _Fit:
    different = {
        name: f"{_form(values[name])}, but in the model {_form(there[name])}"
        for name in values
        if name in there and _form(values[name]) != _form(there[name])
    }
    loaded = [name for name in there if name in values and name not in different]
    # A file may have a tensor that two names of the model share once.
    ids = {id(there[name]) for name in (*loaded, *different)}
    missing = [name for name, value in there.items() if id(value) not in ids]
    return _Fit(loaded, missing, [name for name in values if name not in there], different)


def _form(value: Tensor) -> str:
    """Return the shape of a tensor, and what kind of numbers it has: those of another precision fit."""
    kind = "complex " if value.is_complex() else "" if value.is_floating_point() else "integers "
    return f"{kind}{list(value.shape)}"


def _is_tensor(value: Any) -> bool:
    from torch import Tensor

    return isinstance(value, Tensor)


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    return ", ".join(some[:_SHOWN]) + (", ..." if len(some) > _SHOWN else "")


def _name_hint(name: str, names: Sequence[str]) -> str | None:
    return did_you_mean(name, names[:1000]) if names else None


# ---- sources --------------------------------------------------------------------------------------------------------


def _read_run(name: str, checkpoint: str) -> tuple[str, Mapping[str, Tensor]]:
    from hookline.trained import read_weights

    path = find_run(name)
    weights = read_weights(path, checkpoint or None)
    return f"{path.name}, {weights.origin}, step {weights.step}", weights.model


def _read_file(path: Path) -> tuple[str, Mapping[str, Tensor]]:
    """Return the name of a file with the beginning of its SHA-256, and its tensors.

    Raises:
        CheckpointError: When it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != _EXTENSION:
        hint = _CONVERT if path.suffix in (".pt", ".pth", ".bin", ".ckpt") else "use a .safetensors file"
        raise CheckpointError(f"the weights in {path} cannot be read: it is no {_EXTENSION} file", hint=hint)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{path.name}, sha256 {digest[:12]}", load_file(path)
    except (OSError, SafetensorError) as error:
        hint = "relative paths start at the folder of the config file, on the command line at the current folder"
        raise CheckpointError(f"the weights in {path} cannot be read: {error_text(error)}", hint=hint) from error
