"""Format ``onnx``: a program as an ONNX file, with texts in place of codes and classes."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from hookline import PluginError
from hookline.engine import tensors_in
from hookline.trained import model_metadata, subject_of
from hookline_plugins.commands.exporting.program import Bare, program_of, unexportable, without_torch_warnings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hookline.trained import Comparison, Description, RawInput, Subject, Trained

_OTHER_KERNELS = (1e-3, 1e-5)
"""Tolerances for another library, which sums in another order: those of PyTorch's tutorial "Exporting a Model from
PyTorch to ONNX and Running it using ONNX Runtime"."""

_PREFIX = "hookline/"
"""Beginning of the names of values inside a file, so that none has the name of an input."""

_TEXT_OPSET = 2
"""Version of the operators of ``ai.onnx.ml`` in which LabelEncoder maps texts to numbers and back
(https://onnx.ai/onnx/operators/onnx_aionnxml_LabelEncoder.html)."""


@dataclass(frozen=True)
class Onnx:
    """An ONNX file for any number of examples, which ``hookline predict`` and other programs run; extra ``onnx``.

    It holds the preparation of the inputs as well, as a program of the format ``torch-export`` does, and takes and
    gives texts. Its outputs are compared in ONNX Runtime.
    """

    suffix: ClassVar[str] = ".onnx"

    bare: Bare = False

    def export(self, trained: Trained, target: Path) -> Comparison:
        """Write the file, and compare its outputs."""
        _check_libraries()
        with without_torch_warnings():
            subject = subject_of(trained, bare=self.bare)
            program = program_of(subject)
            try:
                _write(program, _input_names(subject), subject.description, partial(model_metadata, trained), target)
            except Exception as error:
                raise unexportable(error) from error
            return subject.compared(_runner(target, subject.description), *_OTHER_KERNELS)


def _input_names(subject: Subject) -> list[str] | None:
    import torch

    if isinstance(subject.inputs, torch.Tensor):
        return ["inputs"]
    return list(subject.inputs) if subject.description else None


def _check_libraries() -> None:
    """Check that the libraries are installed that exporting to ONNX needs.

    Raises:
        PluginError: When one is not.
    """
    try:
        for name in ("onnx", "onnxscript", "onnxruntime", "onnx_ir"):
            importlib.import_module(name)
    except ImportError as error:
        message = f"exporting to ONNX needs onnx, onnxscript and onnxruntime: {error}"
        raise PluginError(message, hint="pip install 'hookline[onnx]'") from error


def _write(
    program: torch.export.ExportedProgram,
    names: list[str] | None,
    description: Description | None,
    metadata: Callable[[Description | None], dict[str, str]],
    path: Path,
) -> None:
    """Write a program to a file.

    Args:
        program: The program.
        names: Names of its inputs; None for those of its parameters.
        description: Its inputs and outputs; None for the bare model.
        metadata: Returns the metadata for a description.
        path: The file.
    """
    import torch

    outputs = ["outputs"]
    if description is not None:
        description = _with_free_names(description)
        outputs = [output.name for output in description.outputs]
    with _quiet():
        converted: Any = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=outputs)
    if description is not None:
        _rename_inner_values(converted.model.graph)
        _add_texts(converted.model, description)
    converted.model.metadata_props.update(metadata(description))
    converted.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from logging that torchvision, which nothing needs, is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _runner(path: Path, description: Description | None) -> Callable[[Any], Any]:
    """Return the function from a batch of inputs, tensors, to the outputs of a file in ONNX Runtime."""
    import torch

    session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = [one.name for one in session.get_inputs()]
    if description is not None:
        # The graph has no place for an input without effect.
        known = [one for one in description.inputs if one.name in taken]
        # By their order: the file may have other names for them.
        names = [output.name for output in description.outputs]
        return lambda part: dict(
            zip(names, session.run(None, {one.name: _fed(one, part[one.name]) for one in known}), strict=True)
        )

    def outputs(values: Any) -> list[Tensor]:
        arrays = [tensor.cpu().numpy() for tensor in tensors_in(values)]
        named = values if isinstance(values, Mapping) and set(values) == set(taken) else taken
        return [torch.from_numpy(array) for array in session.run(None, dict(zip(named, arrays, strict=True)))]

    return outputs


def _fed(raw: RawInput, values: Tensor) -> Any:
    array = values.cpu().numpy()
    if raw.dtype != "text":
        return array
    import numpy as np

    return np.array(["", *raw.levels], dtype=object)[array]


def _with_free_names(description: Description) -> Description:
    """Return a description in which no output has the name of an input."""
    taken = {one.name for one in description.inputs}
    outputs = []
    for output in description.outputs:
        name = next(name for count in itertools.count() if (name := output.name + "_" * count) not in taken)
        outputs.append(replace(output, name=name))
    return msgspec.structs.replace(description, outputs=tuple(outputs))


def _rename_inner_values(graph: Any) -> None:
    """Put a prefix before the name of each value but inputs and outputs: a column may be called ``linear``."""
    ir = importlib.import_module("onnx_ir")
    outer = {id(value) for value in (*graph.inputs, *graph.outputs)}
    found = list(graph.initializers.values())
    for node in ir.traversal.RecursiveGraphIterator(graph):
        found += [*node.outputs, *(value for part in _parts_of(ir, node) for value in part.inputs)]
    for value in found:
        if id(value) not in outer and value.name:
            value.name = f"{_PREFIX}{value.name}"


def _parts_of(ir: Any, node: Any) -> list[Any]:
    """Return the graphs inside a node."""
    attributes = node.attributes.values()
    return [one.value for one in attributes if one.type == ir.AttributeType.GRAPH]


def _add_texts(model: Any, description: Description) -> None:
    """Let a graph take texts in place of their codes, and give the texts of classes in place of their indices."""
    ir, graph = importlib.import_module("onnx_ir"), model.graph
    text = ir.TensorType(ir.DataType.STRING)
    by_name = {one.name: one for one in description.inputs}
    for place, codes in enumerate(list(graph.inputs)):
        raw = by_name[codes.name]
        if raw.dtype != "text":
            continue
        given = ir.Value(name=raw.name, shape=codes.shape, type=text)
        codes.name = f"{_PREFIX}{raw.name}"
        node = _encoder(
            ir, given, keys_strings=raw.levels, values_int64s=range(1, len(raw.levels) + 1), default_int64=0
        )
        _take_place(codes, node.outputs[0])
        graph.inputs[place] = given
        graph.insert_before(graph[0], node)
        model.opset_imports["ai.onnx.ml"] = _TEXT_OPSET
    for place, output in enumerate(description.outputs):
        if output.labels:
            index = graph.outputs[place]
            index.name = f"{_PREFIX}{output.name}"
            node = _encoder(ir, index, keys_int64s=range(len(output.labels)), values_strings=output.labels)
            node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = output.name, index.shape, text
            graph.append(node)
            graph.outputs[place] = node.outputs[0]
            model.opset_imports["ai.onnx.ml"] = _TEXT_OPSET


def _take_place(old: Any, new: Any) -> None:
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = None
    old.replace_all_uses_with(new)


def _encoder(ir: Any, given: Any, **attributes: Any) -> Any:
    convert = {"int64s": ir.AttrInt64s, "int64": ir.AttrInt64, "strings": ir.AttrStrings}
    made = [
        convert[name.rpartition("_")[2]](name, value if isinstance(value, int) else list(value))
        for name, value in attributes.items()
    ]
    return ir.Node("ai.onnx.ml", "LabelEncoder", [given], made)
