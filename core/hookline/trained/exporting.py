"""Export a trained model to a file for other programs, after comparing the outputs of both."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ConfigError, ContractError
from hookline.engine.reading.batch import with_parts
from hookline.engine.rng import preserved_rng
from hookline.engine.words import did_you_mean
from hookline.runs.disk.data_file import to_kept
from hookline.runs.disk.encoding import state_from_safetensors, state_to_safetensors, to_json
from hookline.runs.record import read_record
from hookline.trained.exportable import ENTRY, Description
from hookline.trained.model import Trained
from hookline.trained.onnx_file import check_libraries, runner, write_onnx
from hookline.trained.subject import Subject, bare_subject, call, raw_subject
from hookline.trained.target_file import check_target, written_whole

ENDINGS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
"""The formats, with the suffix of their files."""

_EXACT = (0.0, 0.0)
_CLOSE = {torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-7, 1e-7)}
"""Tolerances, relative and absolute, for two computations of the same outputs: the defaults of
``torch.testing.assert_close`` (https://docs.pytorch.org/docs/stable/testing.html)."""
_OTHER_KERNELS = (1e-3, 1e-5)
"""Tolerances for another library, which sums in another order: those of PyTorch's tutorial "Exporting a Model from
PyTorch to ONNX and Running it using ONNX Runtime"."""

_Outputs = Callable[[Any], Any]


@dataclass(frozen=True)
class Exported:
    """An exported model, and the result of its comparison.

    Attributes:
        path: The file.
        format: ``safetensors``, ``torch-export`` or ``onnx``.
        num_examples: Number of examples whose outputs were compared with the model's.
        inputs: Description of those examples.
        largest_difference: The largest absolute difference of an output.
        rtol: Tolerance relative to the model's output.
        atol: Absolute tolerance, added to the relative one; for raw inputs, relative to the spread of the outputs.
        takes_raw: Whether the file takes the values of the data file, and gives predictions in its units.
    """

    path: Path
    format: str
    num_examples: int
    inputs: str
    largest_difference: float
    rtol: float
    atol: float
    takes_raw: bool


def export_model(
    trained: Trained,
    to: str,
    target: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    bare: bool = False,
) -> Exported:
    """Export a trained model to a file for other programs, after comparing its outputs with the model's.

    - ``safetensors``: the weights. The file is read back and compared bit by bit.
    - ``torch-export``: a program for any number of examples, written by ``torch.export.save``.
    - ``onnx``: an ONNX file for any number of examples, compared in ONNX Runtime.

    The model is exported with the wrappers that belong to it, in eval mode. A program and an ONNX file hold the
    preparation of the inputs as well, if the data source offers it: they take the values of the data file, and give
    predictions in its units. The entry ``description`` of the file's metadata has the names and types. A bare model
    takes inputs as in training: scaled, for instance. The entry ``data`` describes them.

    Args:
        trained: The model.
        to: The format.
        target: The file; default: the name of the run with the suffix of the format, in the working directory.
        force: Whether an existing file may be replaced.
        bare: Whether the model is exported without the preparation of its inputs.

    Raises:
        ConfigError: When there is no such format, or the file exists or cannot be written.
        ContractError: When the model cannot be exported, or its outputs differ too much.
        PluginError: When a required library is not installed.
    """
    if to not in ENDINGS:
        raise ConfigError(f"there is no format {to!r}", hint=did_you_mean(to, ENDINGS))
    target = Path(target or f"{trained.path.name}{ENDINGS[to]}")
    check_target(target, force=force)
    if to == "onnx":
        check_libraries()
    with written_whole(target, force=force) as new, preserved_rng(), torch.no_grad(), warnings.catch_warnings():
        # While it exports, torch warns about its own internals.
        warnings.simplefilter("ignore")
        subject = (None if bare or to == "safetensors" else raw_subject(trained)) or bare_subject(trained)
        if to == "safetensors":
            outputs, (rtol, atol) = _to_safetensors(trained, new), _EXACT
        elif to == "torch-export":
            outputs, (rtol, atol) = _to_program(trained, subject, new), _CLOSE[trained.dtype]
        else:
            outputs, (rtol, atol) = _to_onnx(trained, subject, new), _OTHER_KERNELS
        difference = max(compare(outputs(part), rtol, atol) for part, compare in subject.parts)
    takes_raw = subject.description is not None
    return Exported(target, to, subject.num_examples, subject.examples, difference, rtol, atol, takes_raw)


def _to_safetensors(trained: Trained, path: Path) -> _Outputs:
    path.write_bytes(state_to_safetensors(trained.model.state_dict(), _metadata(trained)))
    again = copy.deepcopy(trained.model)
    again.load_state_dict(state_from_safetensors(path.read_bytes()))
    return partial(call, again)


def _to_program(trained: Trained, subject: Subject, path: Path) -> _Outputs:
    program = _program(subject)
    extra = {"hookline.json": json.dumps(_metadata(trained, subject.description))}
    torch.export.save(program, path, extra_files=extra)
    # The program is compared, not the file: torch reads such files with pickle.
    module: nn.Module = program.module()
    return lambda part: module(**part) if subject.takes_by_name else module(part)


def _to_onnx(trained: Trained, subject: Subject, path: Path) -> _Outputs:
    program = _program(subject)
    names = ["inputs"] if isinstance(subject.inputs, Tensor) else list(subject.inputs) if subject.description else None
    try:
        write_onnx(program, names, subject.description, partial(_metadata, trained), path)
    except Exception as error:
        raise _unexportable(error) from error
    return runner(path, subject.description)


def _program(subject: Subject) -> torch.export.ExportedProgram:
    module, inputs = subject.module, subject.inputs
    dims = _dynamic_dims(inputs, torch.export.Dim("batch"))
    try:
        if subject.takes_by_name:
            return torch.export.export(module, (), dict(inputs), dynamic_shapes=dims)
        return torch.export.export(module, (inputs,), dynamic_shapes=(dims,))
    except Exception as error:
        raise _unexportable(error) from error


def _dynamic_dims(value: Any, batch: Any) -> Any:
    """Return the dynamic dimension of each tensor: the number of examples."""
    if isinstance(value, Tensor):
        return {0: batch} if value.dim() else None
    return with_parts(value, lambda part: _dynamic_dims(part, batch))


def _unexportable(error: Exception) -> ContractError:
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")
    hint = "export only the weights: --to safetensors; limits of torch.export: https://docs.pytorch.org/docs/stable/export.html"
    return ContractError(f"the model cannot be exported: {type(error).__name__}: {first_line}", hint=hint)


def _metadata(trained: Trained, description: Description | None = None) -> dict[str, str]:
    settings = read_record(trained.path).identity.get("settings", {})
    model = {key: value for key, value in settings.items() if key.startswith("model.")}
    return {
        "format": "pt",
        "hookline": version("hookline"),
        "run": trained.path.name,
        "weights": trained.weights,
        "step": str(trained.step),
        "model": to_json(model).decode(),
        "data": to_kept(trained.data).decode(),
        "inputs": "raw" if description else "prepared",
        **({ENTRY: description.text()} if description else {}),
    }
