"""What a model is made of: its modules as plain rows, and its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from hookline.engine.loop.batch import tensors_in
from hookline.engine.view import Row

_MAX_ROWS = 40
"""Rows that are shown: about what stands on a screen."""


@dataclass(frozen=True)
class ModelSummary:
    """The modules of a model, and its sizes.

    Attributes:
        rows: A row for each module, from the outside to the inside: ``name``, empty for the model itself; ``class``;
            ``output``, the shape of what it returned when it was called first, empty where it was not; ``parameters``
            and ``trainable``, numbers of elements in it and all inside it, each counted once; and ``shared``, how many
            of the parameters belong to a module above as well, beside those that enclose it.
        num_parameters: Elements of all parameters, each counted once.
        num_trainable: Those that require a gradient.
        parameter_bytes: Memory of the parameters.
        buffer_bytes: Memory of the buffers, such as running means.
    """

    rows: Sequence[Row]
    num_parameters: int
    num_trainable: int
    parameter_bytes: int
    buffer_bytes: int

    def readable(self, max_rows: int = _MAX_ROWS) -> tuple[Sequence[Row], int]:
        """Return rows that a person can read, at least 2, and how many were left out.

        All rows down to the greatest depth that fits; where not even the outermost modules fit, the first of them.
        """
        fitting = [
            rows for depth in range(1, 1 + max(map(_depth, self.rows))) if len(rows := self._down_to(depth)) <= max_rows
        ]
        shown = fitting[-1] if fitting else self._down_to(1)[:max_rows]
        return shown, len(self.rows) - len(shown)

    def _down_to(self, depth: int) -> list[Row]:
        return [row for row in self.rows if _depth(row) <= depth]


class OutputShapes:
    """Notes the shapes of what the modules of a model return while it is active: a context manager.

    Of a module that is called several times the first call counts.

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
        """Return the shapes of the tensors that a module returned, in words; empty if it was not called."""
        return self._shapes.get(module, "")

    def _note(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._shapes.setdefault(module, ", ".join(str(list(tensor.shape)) for tensor in tensors_in(output)))


def summarize(model: nn.Module, shapes: OutputShapes | None = None) -> ModelSummary:
    """Return what a model is made of.

    A module that stands at several places has a row at each. So has a parameter, which counts once in the sums.

    Args:
        model: The model, with all wrappers around it.
        shapes: The shapes of what its modules return.

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
        # What is its own and no child's: a child has a row of its own, in which nothing of it is shared yet.
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
