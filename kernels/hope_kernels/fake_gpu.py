"""Tensors that claim to be on a GPU: shapes, types and devices without values, where there is no GPU.

A host tensor among them is found, as torch refuses to mix devices; so is a kernel that gets one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

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

    with FakeTensorMode() as mode, launching_through(launched):
        yield mode


def on_fake_gpu(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake twin of ``tensor``."""
    twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, twin, GPU)
