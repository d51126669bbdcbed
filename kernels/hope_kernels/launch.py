"""The one way to start a Triton kernel, so that launches can be watched and compiled ahead of time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

Argument = Tensor | int | float
Launcher = Callable[[Any, tuple[int, ...], Sequence[Argument], dict[str, Any]], None]
"""``(kernel, grid, arguments, constants)``: constants are compiled in, the kernel's tuned ones left out."""

OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler, named so that another version's default changes no bits."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Argument, **constants: Any) -> None:
    """Start ``kernel`` (``triton.jit``, or that under ``triton.autotune``) on its arguments' device."""
    _launchers[-1](kernel, grid, arguments, constants)


@contextmanager
def launching_through(launcher: Launcher) -> Iterator[None]:
    """Within the block, ``launcher`` gets what would have been started."""
    _launchers.append(launcher)
    try:
        yield
    finally:
        _launchers.remove(launcher)


def configurations(kernel: Any) -> list[Any]:
    """What autotune chooses from, ``triton.Config``; empty for a kernel that is not tuned.

    Sums may be taken in another order with another configuration. So keys hold widths alone: who shares a
    batch decides no bits. And kernels that compute the state at a boundary are not tuned: time decides none.
    """
    return list(getattr(kernel, "configs", ()))


def launch_with(
    configuration: int, kernel: Any, grid: tuple[int, ...], arguments: Sequence[Argument], constants: Any
) -> None:
    """Start it with one of its configurations, the last one if it has fewer: nothing is timed."""
    choices = configurations(kernel)
    if not choices:
        _start(kernel, grid, arguments, constants)
        return
    chosen = choices[min(configuration, len(choices) - 1)]
    _start(kernel.fn, grid, arguments, {**constants, **chosen.all_kwargs()})


def _start(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Argument], constants: Any) -> None:
    """On the arguments' device: Triton starts a kernel on the thread's own, which may be another."""
    device = next((argument.device for argument in arguments if isinstance(argument, Tensor)), None)
    on_its_own = device is not None and device.type == "cuda"
    with torch.cuda.device(device) if on_its_own else nullcontext():
        kernel[grid](*arguments, **constants, **OPTIONS)


_launchers: list[Launcher] = [_start]
