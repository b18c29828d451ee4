"""A local folder with a model of ``transformers``: its config, and weights that are read without unpickling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_MAX_BYTES = 2**24
"""Size of a config or an index: the largest ones, of models in hundreds of files, have some MiB."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return the values of ``config.json``, without those that choose how a model is computed.

    Raises:
        ConfigError: If there is no such file, or it is of quantized weights or not readable.
    """
    values = _read_json(folder / CONFIG, folder)
    if not isinstance(values.get("model_type"), str):
        hint = "it is not the config of a model; save one with save_pretrained(folder)"
        raise ConfigError(f"{folder / CONFIG} has no model_type", hint=hint)
    if values.get("quantization_config"):
        hint = "quantized weights cannot be trained; save the model without quantization"
        raise ConfigError(f"{folder / CONFIG} describes quantized weights", hint=hint)
    # An implementation may be the name of code to fetch; the others are notes of transformers.
    return {key: value for key, value in values.items() if not key.startswith("_") and "implementation" not in key}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights in ``model.safetensors``, or in the files that its index lists.

    Raises:
        ConfigError: If there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
    return weights


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        hint = "save the model again with a present release of transformers: model.save_pretrained(folder)"
        reason = f"; {', '.join(others)} would have to be unpickled" if others else ""
        raise ConfigError(f"{folder} has no {WEIGHTS}{reason}", hint=hint)
    listed = _read_json(folder / INDEX, folder).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, Mapping) else [""]
    if wrong := [name for name in names if name != Path(name).name or not name.endswith(".safetensors")]:
        raise ConfigError(f"{folder / INDEX} lists {wrong[0]!r}, which is not a .safetensors file in the folder")
    yield from (folder / name for name in names)


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        values = json.loads(text) if len(text) <= _MAX_BYTES else None
    except FileNotFoundError as error:
        hint = "name a folder on this machine with the files of a model; nothing is downloaded"
        raise ConfigError(f"{folder} has no {path.name}", hint=hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a JSON object of at most {_MAX_BYTES:,} bytes")
    return values
