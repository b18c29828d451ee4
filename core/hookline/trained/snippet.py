"""``Snippet``: the part of a plain PyTorch script that a plugin writes, in its optional method ``script(run)``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookline.engine.view import RunView


@dataclass(frozen=True)
class Snippet:
    """The part of a plugin in the plain script of a run, as source code without indentation.

    The code may use the names ``data``, ``model``, ``loss_function``, ``optimizer``, ``epoch``, ``steps`` (the losses
    of all steps so far), ``x``, ``y`` and ``loss`` (of the step), and ``measured`` (of the epoch, by name).

    Attributes:
        imports: Statements at the top of the script.
        definitions: Functions and classes.
        setup: Statements at the place of the kind of the plugin, in the order data, model, loss, optimizer, callbacks.
            A model sets ``model``, a loss ``loss_function``, an optimizer ``optimizer``.
        forward: Name of a function ``(model, inputs)`` that replaces the call of the model.
        before_update: Statements before each update of the weights.
        after_update: Statements after each update.
        before_evaluation: Statements at the end of each epoch, before its evaluation.
        after_evaluation: Statements at the end of each epoch; ``break`` ends the training.
        after_training: Statements after the last epoch, before the weights are saved.
        evaluated: Expression for the model to evaluate, if it is not ``model``.
        monitors: Name of the metric that its code reads from ``measured``; empty if it reads none.
        metrics: Expressions for metrics, by name, over all of ``prediction`` and ``target`` of an evaluation.
    """

    imports: tuple[str, ...] = ()
    definitions: str = ""
    setup: str = ""
    forward: str = ""
    before_update: str = ""
    after_update: str = ""
    before_evaluation: str = ""
    after_evaluation: str = ""
    after_training: str = ""
    evaluated: str = ""
    monitors: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def defines(self) -> set[str]:
        """The names that its definitions and its setup define, without those of the components."""
        top = [*ast.parse(self.definitions).body, *ast.parse(self.setup).body]
        named = {node.name for node in top if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        stored = [
            node for part in top if not isinstance(part, ast.FunctionDef | ast.ClassDef) for node in ast.walk(part)
        ]
        assigned = {node.id for node in stored if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        return (named | assigned) - {"model", "loss_function", "optimizer"}


def only_watches(plugin: object, run: RunView) -> Snippet:  # noqa: ARG001 - the form of the method
    """Return an empty part: the ``script`` of a plugin without which a run has the same numbers.

    A plugin class assigns it: ``script = only_watches``. The head of the script names the plugin.
    """
    return Snippet()
