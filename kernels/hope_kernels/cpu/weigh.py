"""Margins of taught tokens and their gradients by the compiled kernel: a token's bits depend neither on the
others nor on the number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hope_kernels.cpu import tangent_layout as layout
from hope_kernels.cpu.build import load
from hope_kernels.torch_threads import kernel_threads


class Listed(Protocol):
    """Against what ``T`` tokens are weighed: ``rows [c, D]`` bf16, ``place [T]`` int64, ``reference [T, D]``,
    ``others [T]`` and ``direction [T, D]`` fp32; all dense. See ``hope_model.attention.alternatives``.
    """

    @property
    def rows(self) -> Tensor: ...
    @property
    def place(self) -> Tensor: ...
    @property
    def reference(self) -> Tensor: ...
    @property
    def others(self) -> Tensor: ...
    @property
    def direction(self) -> Tensor: ...


def weigh(x: Tensor, lists: Sequence[Listed], gain: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Margins ``[N]`` and their gradients with regard to ``x``, ``[N, D]``.

    Args:
        x: outputs of the last layer ``[N, D]`` fp32, dense: the tokens of one list after those of another.
        gain: the last norm's, ``[D]`` fp32.
        epsilon: that norm's.

    Raises:
        IndexError: a target that its list has not.
    """
    library, (count, width) = load("tangent"), x.shape
    assert x.is_contiguous()
    structures = (layout.Shortlist * len(lists))()
    held, first = [], 0
    for structure, own in zip(structures, lists, strict=True):
        tensors = {name: getattr(own, name) for name in layout.Shortlist.TENSORS}
        tokens, listed = len(own.place), len(own.rows)
        if not 0 <= int(own.place.min()) <= int(own.place.max()) < listed:
            raise IndexError(f"expected targets among {listed} listed tokens, found others")
        for name, tensor in tensors.items():
            assert tensor.is_contiguous(), name
            setattr(structure, name, tensor.data_ptr())
        scratch = torch.empty(library.hope_weigh_scratch(width, listed, tokens), dtype=torch.uint8)
        structure.scratch, structure.first = scratch.data_ptr(), first
        structure.count, structure.listed = tokens, listed
        held.append((tensors, scratch))
        first += tokens
    assert first == count
    margins, slopes = torch.empty(count), torch.empty(count, width)
    call = layout.Weighing(
        lists=ctypes.addressof(structures),
        x=x.data_ptr(),
        gain=gain.data_ptr(),
        margins=margins.data_ptr(),
        slopes=slopes.data_ptr(),
        count=count,
        asked=len(lists),
        width=width,
        epsilon=epsilon,
    )
    threads = kernel_threads()
    phases = torch.zeros(library.hope_weigh_phases(), dtype=torch.uint8)
    library.hope_weigh(ctypes.addressof(call), phases.data_ptr() if threads > 1 else None, threads)
    return margins, slopes
