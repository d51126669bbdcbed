"""Tensors that claim to be on a GPU: shapes, types and devices without values, where there is no GPU.

A host tensor among them is found, as torch refuses to mix devices; so is a kernel that gets one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from hope_kernels.launch import Argument, Launcher, launching_through

GPU = torch.device("cuda:0")


@contextmanager
def fake_gpu(watch: Launcher | None = None) -> Iterator[FakeTensorMode]:
    """Within the block new tensors are fake, and kernels do not start: ``watch`` gets their launches."""

    def launched(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Argument], constants: Any) -> None:
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.device != GPU:
                raise RuntimeError(f"{kernel} was given a tensor on {argument.device}")
        if watch is not None:
            watch(kernel, grid, arguments, constants)

    with FakeTensorMode() as mode, _WithoutDriver(mode), launching_through(launched):
        yield mode


def on_fake_gpu(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake twin of ``tensor``."""
    return FakeTensor(mode, _shape_of(tensor), GPU)


class _WithoutDriver(TorchFunctionMode):
    """Does what torch, built without a GPU's driver, refuses even to fake: to move and to index."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.to and _names_gpu((*args[1:], *kwargs.values())):
            kind = next((x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype)), None)
            return on_fake_gpu(args[0] if kind is None else args[0].to(kind), self._mode)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == GPU:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            for tensor in (*index, *args[2:]):
                if isinstance(tensor, Tensor) and tensor.device != GPU:
                    raise RuntimeError(f"a tensor on the GPU was indexed with one on {tensor.device}")
            parts = [_shape_of(part) if isinstance(part, Tensor) else part for part in index]
            with unset_fake_temporarily():
                chosen = _shape_of(args[0])[tuple(parts)]
                if function is Tensor.__setitem__:
                    chosen.copy_(
                        _shape_of(args[2]) if isinstance(args[2], Tensor) else torch.empty_like(chosen)
                    )
                    return None
            return FakeTensor(self._mode, chosen, GPU)
        if function is Tensor.contiguous and args[0].device == GPU:
            return args[0].clone(memory_format=torch.contiguous_format)
        if function is Tensor.__invert__ and args[0].device == GPU:
            return torch.bitwise_not(args[0])
        return function(*args, **kwargs)


def _names_gpu(arguments: Sequence[Any]) -> bool:
    return any(torch.device(x).type == "cuda" for x in arguments if isinstance(x, torch.device | str))


def _shape_of(tensor: Tensor) -> Tensor:
    """Shape, strides and type alone."""
    with unset_fake_temporarily():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
