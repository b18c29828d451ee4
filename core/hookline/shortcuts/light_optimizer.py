"""Training without torch's compiler in memory, for as long as nobody asks for the compiler.

``torch.optim`` imports ``torch._dynamo`` when the first optimizer is made, and again in each step, only to tell the
compiler what it is not to compile. Where nothing is compiled there is nobody to tell, and the import takes nearly as
long as that of torch itself. Two functions in torch do it:

- ``_disable_dynamo``, around ``zero_grad`` and others, keeps what to call in an attribute of the function that it
  wraps, and imports the compiler when there is none. It is set beforehand, to the function itself.
- ``_use_grad_for_differentiable``, around ``step``, imports the compiler to mark where a compiled graph has to end.
  What it made gets the same code without the marks.

No function is replaced, so whoever holds one already, as a profiler or a schedule does, holds the light one. When
anybody begins to import the compiler, all is taken back before that is loaded: it finds torch as torch made it.

All of this leans on torch's inside. So it is done only when the source of both functions is, to the letter, one that is
known (torch 2.10 to 2.15); with any other torch the optimizers import the compiler, as ever.
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
"""The attribute in which ``_disable_dynamo`` keeps what to call."""
_KNOWN = {
    "9e7261f0f1caa4f6446009cf87017de3278f529a154477ed2228c44fb4e6a65c": "2.10 and 2.11",
    "3d6590d01eb40497ad520db24fcf5134f2aa5a52f1891a2d8d426ed5f8ae8108": "2.12 to 2.15",
}
"""SHA-256 of the source of the two functions, ``_disable_dynamo`` and ``_use_grad_for_differentiable``: whose it is."""


@contextmanager
def light_optimizer() -> Iterator[None]:
    """Keep optimizers from importing torch's compiler meanwhile, if torch is imported and one that is known.

    For a program that only trains: the change is one of the whole process.
    """
    with ExitStack() as changes:
        if _is_known():
            watch = _ImportHook(changes.enter_context(ExitStack()))
            sys.meta_path.insert(0, watch)
            changes.callback(sys.meta_path.remove, watch)
            _lighten(watch.changes)
        yield


class _ImportHook(MetaPathFinder):
    """Finds no module, but takes changes back when the compiler is about to be imported."""

    def __init__(self, changes: ExitStack) -> None:
        self.changes = changes

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == _COMPILER:
            self.changes.close()


def _is_known() -> bool:
    """Whether torch is imported, without its compiler, and its two functions are those that are known here."""
    if "torch.optim" not in sys.modules or _COMPILER in sys.modules:
        return False
    if any(isinstance(finder, _ImportHook) for finder in sys.meta_path):
        return False  # it is done already
    return source_digest(*_makers()) in _KNOWN


def _makers() -> tuple[Any, Any]:
    """Return the two functions of torch that make those which import the compiler."""
    torch, optimizer = sys.modules["torch"], sys.modules["torch.optim.optimizer"]
    return getattr(torch, "_disable_dynamo", None), getattr(optimizer, "_use_grad_for_differentiable", None)


def _lighten(changes: ExitStack) -> None:
    """Make the functions of every optimizer class light, and note in ``changes`` how to take that back."""
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
    """Give the functions of a class and of all that are derived from it, with those that they wrap."""
    for value in vars(optimizer).values():
        function = value
        while isinstance(function, FunctionType):
            yield function
            function = getattr(function, "__wrapped__", None)
    for derived in optimizer.__subclasses__():
        yield from _functions(derived)


def _inner_code(maker: Callable[..., Any], name: str) -> CodeType:
    """Return the code of the function ``name`` that ``maker`` makes."""
    codes = (constant for constant in maker.__code__.co_consts if isinstance(constant, CodeType))
    return next(code for code in codes if code.co_name == name)


def _without_marks(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return what ``_use_grad_for_differentiable`` returns, but for the marks.

    Only its code is used, by functions of ``torch.optim.optimizer``: there, ``torch`` is a global name.
    """

    def use_grad(*args: Any, **kwargs: Any) -> Any:
        is_enabled = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(args[0].defaults["differentiable"])
            return func(*args, **kwargs)
        finally:
            torch.set_grad_enabled(is_enabled)

    return use_grad
