"""Export a trained model to a file for other programs, after comparing the outputs of both."""

from __future__ import annotations

import copy
import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ConfigError, ContractError, HooklineError, PluginError
from hookline.engine.loop.building import build_data
from hookline.engine.loop.run import Run
from hookline.engine.reading.batch import Forward, count_examples, part_of, tensors_in, with_parts
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.engine.rng import make_generator, preserved_rng
from hookline.engine.words import did_you_mean
from hookline.runs.disk.data_file import to_kept
from hookline.runs.disk.encoding import state_from_safetensors, state_to_safetensors, to_json
from hookline.runs.record import read_record
from hookline.trained.model import Trained
from hookline.trained.target_file import check_target, written_whole

ENDINGS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}
"""The formats, with the suffix of their files."""

_NUM_EXAMPLES = 16
"""Number of examples whose outputs are compared: more than one, and few enough for a model of any size."""
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
        atol: Absolute tolerance, added to the relative one.
    """

    path: Path
    format: str
    num_examples: int
    inputs: str
    largest_difference: float
    rtol: float
    atol: float


def export_model(
    trained: Trained, to: str, target: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Exported:
    """Export a trained model to a file for other programs, after comparing its outputs with the model's.

    - ``safetensors``: the weights. The file is read back and compared bit by bit.
    - ``torch-export``: a program for any number of examples, written by ``torch.export.save``.
    - ``onnx``: an ONNX file for any number of examples, compared in ONNX Runtime.

    The model is exported with the wrappers that belong to it, in eval mode. It takes inputs as in training: scaled, for
    instance. The entry ``data`` of the file's metadata describes them.

    Args:
        trained: The model.
        to: The format.
        target: The file; default: the name of the run with the suffix of the format, in the working directory.
        force: Whether an existing file may be replaced.

    Raises:
        ConfigError: When there is no such format, or the file exists or cannot be written.
        ContractError: When the model cannot be exported, or its outputs differ too much.
        PluginError: When a required library is not installed.
    """
    if to not in ENDINGS:
        raise ConfigError(f"there is no format {to!r}", hint=did_you_mean(to, ENDINGS))
    target = Path(target or f"{trained.path.name}{ENDINGS[to]}")
    check_target(target, force=force)
    libraries = _onnx_libraries() if to == "onnx" else {}
    inputs, described = _example_inputs(trained)
    with written_whole(target, force=force) as new, preserved_rng(), torch.no_grad(), warnings.catch_warnings():
        # While it exports, torch warns about its own internals.
        warnings.simplefilter("ignore")
        if to == "safetensors":
            outputs, (rtol, atol) = _to_safetensors(trained, new), _EXACT
        elif to == "torch-export":
            outputs, (rtol, atol) = _to_program(trained, inputs, new), _CLOSE[trained.dtype]
        else:
            outputs, (rtol, atol) = _to_onnx(trained, inputs, new, libraries), _OTHER_KERNELS
        # One example alone as well: the number of examples must be dynamic.
        parts = [inputs, part_of(inputs, 0, 1)]
        difference = max(_difference(outputs(part), _call(trained.model, part), rtol, atol) for part in parts)
    return Exported(target, to, count_examples(inputs), described, difference, rtol, atol)


def _to_safetensors(trained: Trained, path: Path) -> _Outputs:
    path.write_bytes(state_to_safetensors(trained.model.state_dict(), _metadata(trained)))
    again = copy.deepcopy(trained.model)
    again.load_state_dict(state_from_safetensors(path.read_bytes()))
    return partial(_call, again)


def _to_program(trained: Trained, inputs: Any, path: Path) -> _Outputs:
    program = _program(trained.model, inputs)
    torch.export.save(program, path, extra_files={"hookline.json": json.dumps(_metadata(trained))})
    # The program is compared, not the file: torch reads such files with pickle.
    module: nn.Module = program.module()
    return lambda part: module(**part) if _is_named(trained.model, part) else module(part)


def _to_onnx(trained: Trained, inputs: Any, path: Path, libraries: Mapping[str, Any]) -> _Outputs:
    program = _program(trained.model, inputs)
    try:
        names = ["inputs"] if isinstance(inputs, Tensor) else None
        converted: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names, output_names=["outputs"]
        )
        converted.model.metadata_props.update(_metadata(trained))
        converted.save(path, external_data=False)
    except Exception as error:
        raise _unexportable(error) from error
    session = libraries["onnxruntime"].InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = [one.name for one in session.get_inputs()]

    def outputs(values: Any) -> list[Tensor]:
        arrays = [tensor.cpu().numpy() for tensor in tensors_in(values)]
        named = values if isinstance(values, Mapping) and set(values) == set(taken) else taken
        return [torch.from_numpy(array) for array in session.run(None, dict(zip(named, arrays, strict=True)))]

    return outputs


def _program(model: nn.Module, inputs: Any) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    dims = _dynamic_dims(inputs, batch)
    try:
        if _is_named(model, inputs):
            return torch.export.export(model, (), dict(inputs), dynamic_shapes=dims)
        return torch.export.export(model, (inputs,), dynamic_shapes=(dims,))
    except Exception as error:
        raise _unexportable(error) from error


def _is_named(model: nn.Module, inputs: Any) -> bool:
    return Forward(model, None).takes_by_name(inputs)


def _call(model: nn.Module, inputs: Any) -> Any:
    return Forward(model, None).output(inputs)


def _dynamic_dims(value: Any, batch: Any) -> Any:
    """Return the dynamic dimension of each tensor: the number of examples."""
    if isinstance(value, Tensor):
        return {0: batch} if value.dim() else None
    return with_parts(value, lambda part: _dynamic_dims(part, batch))


def _unexportable(error: Exception) -> ContractError:
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")
    hint = "export only the weights: --to safetensors; limits of torch.export: https://docs.pytorch.org/docs/stable/export.html"
    return ContractError(f"the model cannot be exported: {type(error).__name__}: {first_line}", hint=hint)


def _difference(got: Any, expected: Any, rtol: float, atol: float) -> float:
    """Return the largest absolute difference of two outputs.

    Raises:
        ContractError: When it is too large, or their shapes differ.
    """
    largest = 0.0
    pairs = [list(tensors_in(got)), list(tensors_in(expected))]
    if [tensor.shape for tensor in pairs[0]] != [tensor.shape for tensor in pairs[1]]:
        raise ContractError("the outputs of the exported model differ in shape from the model's")
    for one, other in zip(*pairs, strict=True):
        a, b = one.detach().cpu().double(), other.detach().cpu().double()
        difference = (a - b).abs().nan_to_num(0.0).max().item() if a.numel() else 0.0
        largest = max(largest, difference)
        if not torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            message = f"the outputs of the exported model differ from the model's by up to {difference:.3g}"
            hint = f"the tolerance is {atol:g} plus {rtol:g} of the output; nothing was written"
            raise ContractError(message, hint=hint)
    return largest


def _metadata(trained: Trained) -> dict[str, str]:
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
    }


def _onnx_libraries() -> dict[str, Any]:
    try:
        return {name: importlib.import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    except ImportError as error:
        message = f"exporting to ONNX needs onnx, onnxscript and onnxruntime: {error}"
        raise PluginError(message, hint="pip install 'hookline[onnx]'") from error


# ---- inputs to compare with ------------------------------------------------------------------------------------------


def _example_inputs(trained: Trained) -> tuple[Any, str]:
    """Return at least two inputs for the model and their description: training data if they can be read."""
    forward = Forward(trained.model, None, trained.data.target)
    try:
        data = Run(trained.config, build=build_data).data
        batches = Batches(data.train, _NUM_EXAMPLES, Workers(trained.dtype, collate=data.collate))
        inputs, _ = forward.pair(next(iter(batches.epoch(1))))
        described = f"the first {count_examples(inputs)} training examples"
    except (HooklineError, OSError, ValueError, TypeError):
        inputs, _ = forward.pair(trained.data.train[0])
        inputs = _random_like(inputs)
        described = f"{_NUM_EXAMPLES} random examples, because the training data cannot be read"
    if count_examples(inputs) == 1:
        # torch treats a dimension of size 1 as static.
        inputs = _doubled(inputs)
    return trained.placed(inputs), described


def _random_like(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return with_parts(value, _random_like)
    shape = (_NUM_EXAMPLES, *value.shape)
    if not value.is_floating_point():
        return torch.zeros(shape, dtype=value.dtype)
    return torch.randn(shape, generator=make_generator(0, "export")).to(value.dtype)


def _doubled(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) else with_parts(value, _doubled)
