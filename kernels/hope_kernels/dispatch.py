"""Which form of an operation runs: the fused one where it serves, else the reference.

A fused form that does not compile is given up for the rest of the process: an error is logged, observers are
told, and the reference takes over. Nothing has been written by then, since a kernel starts only when it has
been compiled.
"""

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

Observer = Callable[[str, BaseException], None]
"""``(operation, why it failed)``."""

_log = logging.getLogger(__name__)
_observers: list[Observer] = []
_given_up: dict[str, BaseException] = {}
_names: list[str] = []


class Dispatch(Generic[P, R]):
    """An operation that picks its form at every call.

    Args:
        name: as logs and observers have it.
        reference: plain torch, for any device and type.
        fused: ``module:function`` of the Triton form, imported when it is first needed.
        serves: whether the fused form takes these arguments.
    """

    def __init__(self, name: str, reference: Callable[P, R], fused: str, serves: Callable[P, bool]) -> None:
        self.name = name
        declare(name)
        self.reference = reference
        self.serves = serves
        self._fused = fused

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.name in _given_up or not self.serves(*args, **kwargs):
            return self.reference(*args, **kwargs)
        try:
            return self.fused()(*args, **kwargs)
        except _compile_failures() as error:
            give_up(self.name, error)
        return self.reference(*args, **kwargs)

    def fused(self) -> Callable[P, R]:
        """The Triton form; ImportError without Triton."""
        module, _, function = self._fused.partition(":")
        form: Callable[P, R] = getattr(import_module(module), function)
        return form


def observe_fallbacks(observer: Observer) -> None:
    """Tell ``observer`` of every operation that is given up, those of before included."""
    for name, error in _given_up.items():
        observer(name, error)
    _observers.append(observer)


def declare(name: str) -> None:
    """There is an operation of this name, which may be given up."""
    _names.append(name)


def operations() -> tuple[str, ...]:
    """Names of all operations whose packages have been imported."""
    return tuple(_names)


def fallbacks() -> tuple[str, ...]:
    """Operations that were given up, in order."""
    return tuple(_given_up)


def give_up(name: str, error: BaseException, what: str = "") -> None:
    """An operation goes on another way, a kernel's by its reference: ``what`` is logged and observers are
    told, once.
    """
    if name in _given_up:
        return
    _given_up[name] = error
    _log.error("%s: %s", what or f"kernel {name} does not compile, its reference runs from here on", error)
    for observer in _observers:
        observer(name, error)


def on_gpu(*tensors: Tensor | None) -> bool:
    """Whether all are on a GPU, and none of them asks for a gradient: fused forms have no backward."""
    known = [tensor for tensor in tensors if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in known):
        return False
    return all(tensor.is_cuda for tensor in known)


def _compile_failures() -> tuple[type[BaseException], ...]:
    """What Triton raises before a kernel starts."""
    try:
        from triton.compiler.errors import CompilationError
        from triton.runtime.errors import OutOfResources, PTXASError
    except ImportError:
        return (ImportError,)
    return (ImportError, CompilationError, OutOfResources, PTXASError)


__all__ = [
    *("Dispatch", "Observer", "declare", "fallbacks", "give_up"),
    *("observe_fallbacks", "on_gpu", "operations"),
]
