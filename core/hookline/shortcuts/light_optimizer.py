"""Train without importing torch's compiler, unless something else needs it.

``torch.optim`` imports ``torch._dynamo`` when the first optimizer is made, and again in each step, only to exclude code
from compilation. Where nothing is compiled this has no effect, and the import takes nearly as long as that of torch
itself. Two functions of torch do it:

- ``_disable_dynamo``, around ``zero_grad`` and others, stores the function to call in an attribute of the function that
  it wraps, and imports the compiler when there is no such attribute. It is set beforehand, to the function itself.
- ``_use_grad_for_differentiable``, around ``step``, imports the compiler to mark where a compiled graph has to end.
  The functions that it made get the same code without the marks.

No function is replaced, so code that already holds one, such as a profiler or a schedule, holds the light version. When
anything starts to import the compiler, all changes are undone before it is loaded: it finds torch unchanged.

This relies on torch's internals, so it is done only when the source of both functions is exactly a known one (torch
2.10 to 2.15); with any other torch the optimizers import the compiler as usual.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from hookline.shortcuts.known_source import source_digest

if TYPE_CHECKING:
    import torch


_COMPILER = "torch._dynamo"
_CACHE = "__dynamo_disable"
"""The attribute in which ``_disable_dynamo`` stores the function to call."""
_KNOWN = {
    "9e7261f0f1caa4f6446009cf87017de3278f529a154477ed2228c44fb4e6a65c": "2.10 and 2.11",
    "3d6590d01eb40497ad520db24fcf5134f2aa5a52f1891a2d8d426ed5f8ae8108": "2.12 to 2.15",
}
"""SHA-256 of the source of ``_disable_dynamo`` and ``_use_grad_for_differentiable``: torch's versions."""


@contextmanager
def light_optimizer() -> Iterator[None]:
    """Keep optimizers from importing torch's compiler meanwhile, if torch is imported and its version known.

    For a program that only trains: the change affects the whole process.
    """
    with ExitStack() as changes:
        if _is_known():
            watch = _ImportHook(changes.enter_context(ExitStack()))
            sys.meta_path.insert(0, watch)
            changes.callback(sys.meta_path.remove, watch)
            _lighten(watch.changes)
        yield


class _ImportHook(MetaPathFinder):
    """Finds no module, but undoes the changes when the compiler is about to be imported."""

    def __init__(self, changes: ExitStack) -> None:
        self.changes = changes

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == _COMPILER:
            self.changes.close()


def _is_known() -> bool:
    """Return whether torch is imported, without its compiler, and the source of its two functions is known."""
    if "torch.optim" not in sys.modules or _COMPILER in sys.modules:
        return False
    if any(isinstance(finder, _ImportHook) for finder in sys.meta_path):
        return False  # active already
    return source_digest(*_makers()) in _KNOWN


def _makers() -> tuple[Any, Any]:
    """Return the two functions of torch whose results import the compiler."""
    torch, optimizer = sys.modules["torch"], sys.modules["torch.optim.optimizer"]
    return getattr(torch, "_disable_dynamo", None), getattr(optimizer, "_use_grad_for_differentiable", None)


def _lighten(changes: ExitStack) -> None:
    """Make the functions of every optimizer class light, and register in ``changes`` how to undo it."""
    disable, mark = _makers()
    disabling, marking = _inner_code(disable, "inner"), _inner_code(mark, "_use_grad")
    for function in set(_functions(sys.modules["torch.optim"].Optimizer)):
        if function.__code__ is disabling:
            kept: Any = inspect.getclosurevars(function).nonlocals["fn"]
            setattr(kept, _CACHE, kept)
            changes.callback(delattr, kept, _CACHE)
        elif function.__code__ is marking:
            changes.callback(setattr, function, "__code__", marking)
            function.__code__ = _inner_code(_without_marks, "use_grad")


def _functions(optimizer: type[Any]) -> Iterator[FunctionType]:
    """Yield the functions of a class and its subclasses, and the functions that those wrap."""
    for value in vars(optimizer).values():
        function = value
        while isinstance(function, FunctionType):
            yield function
            function = getattr(function, "__wrapped__", None)
    for derived in optimizer.__subclasses__():
        yield from _functions(derived)


def _inner_code(maker: Callable[..., Any], name: str) -> CodeType:
    """Return the code of the function ``name`` that ``maker`` defines."""
    codes = (constant for constant in maker.__code__.co_consts if isinstance(constant, CodeType))
    return next(code for code in codes if code.co_name == name)


def _without_marks(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that ``_use_grad_for_differentiable`` returns, without the marks.

    Only its code is used, by functions of ``torch.optim.optimizer``, where ``torch`` is a global name.
    """

    def use_grad(*args: Any, **kwargs: Any) -> Any:
        is_enabled = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(args[0].defaults["differentiable"])
            return func(*args, **kwargs)
        finally:
            torch.set_grad_enabled(is_enabled)

    return use_grad
