"""Format ``torch-export``: a program, and the translation of a model to one, of which other formats are made."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from hookline import ContractError
from hookline.engine import with_parts
from hookline.trained import model_metadata, subject_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from hookline.trained import Comparison, Subject, Trained

Bare = Annotated[bool, Meta(description="whether to leave out the preparation of the inputs")]

_CLOSE = {"float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}
"""Tolerances, relative and absolute, for two computations of the same outputs: the defaults of
``torch.testing.assert_close`` (https://docs.pytorch.org/docs/stable/testing.html)."""


@dataclass(frozen=True)
class TorchExport:
    """A program for ``torch.export.load``, for any number of examples.

    It holds the preparation of the inputs as well, if the data source offers it: it takes the values of the data file,
    and gives predictions in its units. The entry ``description`` of its metadata has the names and types. A bare model
    takes inputs as in training: scaled, for instance. The entry ``data`` describes them.
    """

    suffix: ClassVar[str] = ".pt2"

    bare: Bare = False

    def export(self, trained: Trained, target: Path) -> Comparison:
        """Write the program, and compare its outputs."""
        import torch

        with without_torch_warnings():
            subject = subject_of(trained, bare=self.bare)
            program = program_of(subject)
            extra = {"hookline.json": json.dumps(model_metadata(trained, subject.description))}
            torch.export.save(program, target, extra_files=extra)
            # The program is compared, not the file: torch reads such files with pickle.
            module: Any = program.module()
            return subject.compared(
                lambda part: module(**part) if subject.takes_by_name else module(part),
                *_CLOSE[str(trained.dtype).removeprefix("torch.")],
            )


def program_of(subject: Subject) -> ExportedProgram:
    """Return a model as a program for any number of examples.

    Raises:
        ContractError: When it cannot be one.
    """
    import torch

    module, inputs = subject.module, subject.inputs
    dims = _dynamic_dims(inputs, torch.export.Dim("batch"))
    try:
        if subject.takes_by_name:
            return torch.export.export(module, (), dict(inputs), dynamic_shapes=dims)
        return torch.export.export(module, (inputs,), dynamic_shapes=(dims,))
    except Exception as error:
        raise unexportable(error) from error


def unexportable(error: Exception) -> ContractError:
    """Return the error for a model that cannot be a program."""
    first_line = next((line for line in str(error).splitlines() if line.strip()), "")
    hint = "export only the weights: --to safetensors; limits of torch.export: https://docs.pytorch.org/docs/stable/export.html"
    return ContractError(f"the model cannot be exported: {type(error).__name__}: {first_line}", hint=hint)


@contextlib.contextmanager
def without_torch_warnings() -> Iterator[None]:
    """Ignore warnings: while it exports, torch warns about its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dynamic_dims(value: Any, batch: Any) -> Any:
    """Return the dynamic dimension of each tensor: the number of examples."""
    import torch

    if isinstance(value, torch.Tensor):
        return {0: batch} if value.dim() else None
    return with_parts(value, lambda part: _dynamic_dims(part, batch))
