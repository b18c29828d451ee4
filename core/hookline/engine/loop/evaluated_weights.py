"""``EvaluatedWeights``: the weights that are evaluated, where they are not those that are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hookline.engine.errors import ContractError
from hookline.engine.plugin.member import Plugin
from hookline.engine.reading.batch import brief


class EvaluatedWeights:
    """The weights that are evaluated, where they are not those that are trained.

    Args:
        sources: Plugins, each with the result of its ``build_evaluated_weights``.
    """

    def __init__(self, sources: Iterable[tuple[Plugin, Callable[[], Iterable[tuple[Tensor, Tensor]]]]] = ()) -> None:
        self._sources = tuple(sources)

    def __bool__(self) -> bool:
        return bool(self._sources)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Load them into the model; afterwards restore the trained ones, to the last bit."""
        trained: list[tuple[Tensor, Tensor]] = []
        try:
            self._load(trained)
            yield
        finally:
            with torch.no_grad():
                for weight, value in reversed(trained):
                    weight.copy_(value)

    def keep(self) -> None:
        """Load them into the model, whose own weights they are from then on."""
        self._load([])
        self._sources = ()

    @torch.no_grad()
    def _load(self, trained: list[tuple[Tensor, Tensor]]) -> None:
        for plugin, values_of in self._sources:
            for weight, value in list(values_of()):
                if weight.shape != value.shape:
                    message = f"build_evaluated_weights of {plugin} gives {brief(value)} for a weight {brief(weight)}"
                    raise ContractError(message)
                trained.append((weight, weight.clone()))
                weight.copy_(value)
