"""``OnnxModel``: an exported ONNX file with the preparation of its inputs, ready to predict.

Only ONNX Runtime and NumPy are needed. Nothing but the graph of the file is executed: libraries of operators are not
loaded, and the weights are read from the file alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hookline.config.files import read_file, reason
from hookline.engine.errors import CheckpointError, PluginError
from hookline.trained.exportable import Description, read_description
from hookline.trained.raw.arrays import read_arrays
from hookline.trained.raw.faults import Batch
from hookline.trained.raw.tables import PROBLEM, read_table

_MAX_BYTES = 2**31 - 1
"""Largest file that is read: an ONNX file cannot be larger (https://protobuf.dev/programming-guides/proto-limits/)."""

_BATCH_SIZE = 2**12


class OnnxModel:
    """An exported model, ready to predict.

    Attributes:
        path: The file.
        description: Its inputs and outputs, and how files are read for it.
        run: Name of the run that it was exported from.
        weights: Origin of the weights.
        step: Number of steps that they were trained for.
    """

    warnings: tuple[str, ...] = ()
    """Warnings about the weights: none."""

    writers: Mapping[str, Any] = {}
    """Functions that write other files than CSV: none."""

    def __init__(self, path: Path, session: Any) -> None:
        metadata = session.get_modelmeta().custom_metadata_map
        self.path, self.description = path, read_description(metadata, path.name)
        self.run, self.weights = metadata.get("run", ""), metadata.get("weights", "")
        self.step = int(metadata["step"]) if metadata.get("step", "").isdecimal() else 0
        self._session = session
        self._taken = [one.name for one in session.get_inputs()]
        _check_graph(session, self.description, path.name)

    def output(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs by name for NumPy arrays by name, the raw inputs of a batch."""
        names = [output.name for output in self.description.outputs]
        found = self._session.run(names, {name: inputs[name] for name in self._taken})
        return dict(zip(names, found, strict=True))

    def predictions(self, source: str | os.PathLike[str]) -> Iterator[Mapping[str, Sequence[Any]]]:
        """Yield the predictions for the inputs of a file, in its order: columns by name, one batch at a time.

        Raises:
            DataError: When the file cannot be used; carries every fault, at the latest at its end.
            PluginError: When polars is needed for a Parquet file and not installed.
        """
        read = read_arrays if self.description.table is None else read_table
        for batch in read(Path(source), self.description, _BATCH_SIZE):
            yield self._columns(batch)

    def _columns(self, batch: Batch) -> dict[str, Sequence[Any]]:
        found = self.description.columns(self.output(batch.inputs))
        table = self.description.table
        if table is None or not table.leaves_empty:
            return {**batch.beside, **found}
        num_rows = len(next(iter(found.values())))
        problems = {PROBLEM: [batch.problems.get(row) for row in range(num_rows)]}
        for values in found.values():
            for row in batch.problems:
                values[row] = None
        return {**batch.beside, **problems, **found}


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Load an ONNX file that ``hookline export`` has written, ready to predict without torch and without plugins.

    Raises:
        CheckpointError: When it cannot be used: it is damaged, holds other operators, or no preparation of its inputs.
        PluginError: When onnxruntime is not installed.
    """
    path = Path(path)
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        message = f"predicting with an ONNX file needs onnxruntime: {error}"
        raise PluginError(message, hint="pip install onnxruntime") from error
    try:
        data = read_file(path.resolve(), _MAX_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # a fault is raised, and need not be printed as well
    try:
        # From bytes: a file could name others that hold its weights.
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CheckpointError(f"{path.name} is not an ONNX model that can be run: {first}") from error
    return OnnxModel(path, session)


def _check_graph(session: Any, description: Description, file: str) -> None:
    """Check that a graph has the inputs and outputs of its description."""
    known = {one.name for one in description.inputs}
    taken, given = [[one.name for one in each] for each in (session.get_inputs(), session.get_outputs())]
    if unknown := [name for name in taken if name not in known]:
        raise CheckpointError(f"{file} takes {unknown[0]!r}, which its description lacks", hint="export the run again")
    if missing := [one.name for one in description.outputs if one.name not in given]:
        raise CheckpointError(f"{file} gives no {missing[0]!r}, which its description has", hint="export the run again")
