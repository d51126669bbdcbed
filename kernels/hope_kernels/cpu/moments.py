"""Products with the matrices of several sites by the compiled kernel: a line's bits depend neither on the
others nor on the number of threads.
"""

import ctypes

import torch
from torch import Tensor

from hope_kernels.cpu import tangent_layout as layout
from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.build import load
from hope_kernels.cpu.frozen import LANES, FrozenWeights
from hope_kernels.cpu.reader_layout import Frozen
from hope_kernels.torch_threads import kernel_threads


class SiteProducts:
    """``x [S, N, D]`` -> ``x W`` in fp32, with ``W [S, D, D]`` rounded to bf16 and ``x`` to 16 bits.

    Raises:
        BuildError: there is no kernel.
    """

    def __init__(self, matrices: Tensor, arena: Arena) -> None:
        self._library = load("tangent")
        self._shape = matrices.shape
        self._held = [FrozenWeights(each.mT.bfloat16(), None, arena) for each in matrices]
        self._matrices = (Frozen * len(self._held))(*(each.structure for each in self._held))
        self._line = int(self._library.hope_moments_line(self._shape[2]))
        self._phases = int(self._library.hope_moments_phases())

    def __call__(self, x: Tensor) -> Tensor:
        sites, count, width = x.shape
        assert (sites, width) == (self._shape[0], self._shape[2])
        x, y = x.contiguous(), torch.empty(sites, count, width)
        operands = torch.empty(2, sites, -(-count // LANES) * LANES, self._line, dtype=torch.bfloat16)
        phases, threads = torch.zeros(self._phases, dtype=torch.uint8), kernel_threads()
        call = layout.Moments(
            matrices=ctypes.addressof(self._matrices),
            x=x.data_ptr(),
            y=y.data_ptr(),
            operands=operands.data_ptr(),
            sites=sites,
            count=count,
            width=width,
        )
        self._library.hope_moments(
            ctypes.addressof(call), phases.data_ptr() if threads > 1 else None, threads
        )
        return y
