"""Summary of a model: its modules as plain rows, and its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from hookline.engine.reading.batch import tensors_in
from hookline.engine.view import Row

_MAX_ROWS = 40
"""Number of rows that are shown: about a screenful."""


@dataclass(frozen=True)
class ModelSummary:
    """The modules of a model, and its sizes.

    Attributes:
        rows: A row for each module, from the outside to the inside: ``name``, empty for the model itself; ``class``;
            ``output``, the shape of the result of its first call, empty if it was not called; ``parameters`` and
            ``trainable``, numbers of elements in it and all modules inside it, each counted once; and ``shared``, the
            number of those parameters that also belong to an earlier module that does not enclose it.
        num_parameters: Number of elements of all parameters, each counted once.
        num_trainable: Number of elements that require a gradient.
        parameter_bytes: Memory of the parameters.
        buffer_bytes: Memory of the buffers, such as running means.
    """

    rows: Sequence[Row]
    num_parameters: int
    num_trainable: int
    parameter_bytes: int
    buffer_bytes: int

    def readable(self, max_rows: int = _MAX_ROWS) -> tuple[Sequence[Row], int]:
        """Return rows for a person to read, at least 2, and the number of rows left out.

        All rows down to the greatest depth that fits; if not even the outermost modules fit, the first of them.
        """
        fitting = [
            rows for depth in range(1, 1 + max(map(_depth, self.rows))) if len(rows := self._down_to(depth)) <= max_rows
        ]
        shown = fitting[-1] if fitting else self._down_to(1)[:max_rows]
        return shown, len(self.rows) - len(shown)

    def _down_to(self, depth: int) -> list[Row]:
        return [row for row in self.rows if _depth(row) <= depth]


class OutputShapes:
    """Records the output shapes of the modules of a model while it is active: a context manager.

    If a module is called several times, the first call counts.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> with OutputShapes(model) as shapes:
        ...     _ = model(torch.zeros(5, 3))
        >>> shapes.of(model[0])
        '[5, 2]'
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shapes: dict[nn.Module, str] = {}

    def __enter__(self) -> Self:
        self._handles = [module.register_forward_hook(self._note) for module in self._model.modules()]
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def of(self, module: nn.Module) -> str:
        """Return the shapes of the tensors that a module returned, as text; empty if it was not called."""
        return self._shapes.get(module, "")

    def _note(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._shapes.setdefault(module, ", ".join(str(list(tensor.shape)) for tensor in tensors_in(output)))


def summarize(model: nn.Module, shapes: OutputShapes | None = None) -> ModelSummary:
    """Summarize a model.

    A module in several places has a row for each. A shared parameter counts in each row, and once in the sums.

    Args:
        model: The model, with all wrappers around it.
        shapes: The output shapes of its modules.

    Example:
        >>> summary = summarize(nn.Sequential(nn.Linear(3, 2), nn.Tanh()))
        >>> [(row["name"], row["class"], row["parameters"]) for row in summary.rows]
        [('', 'Sequential', 8), ('0', 'Linear', 8), ('1', 'Tanh', 0)]
        >>> summary.parameter_bytes
        32
    """
    seen: set[int] = set()
    rows: list[Row] = []
    for name, module in model.named_modules(remove_duplicate=False):
        parameters = list(module.parameters())
        rows.append(
            {
                "name": name,
                "class": type(module).__name__,
                "output": shapes.of(module) if shapes else "",
                "parameters": _count(parameters),
                "trainable": _count([parameter for parameter in parameters if parameter.requires_grad]),
                "shared": _count([parameter for parameter in parameters if id(parameter) in seen]),
            }
        )
        # Only the direct parameters: those of a child are not yet shared in the row of that child.
        seen.update(map(id, module.parameters(recurse=False)))
    parameters = list(model.parameters())
    return ModelSummary(
        rows=rows,
        num_parameters=_count(parameters),
        num_trainable=_count([parameter for parameter in parameters if parameter.requires_grad]),
        parameter_bytes=_bytes(parameters),
        buffer_bytes=_bytes(list(model.buffers())),
    )


def _depth(row: Row) -> int:
    name = str(row["name"])
    return name.count(".") + 1 if name else 0


def _count(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
