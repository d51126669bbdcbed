"""Memory in large pages, where the system has them: a step reads megabytes of every row in pieces of a few
kilobytes, and finding 4-kilobyte pages takes its time.
"""

import math
import mmap
from contextlib import suppress

import torch
from torch import Tensor

PAGE = 1 << 21
RESERVED = 1 << 26
"""Bytes that are asked for at once; the system gives what is touched."""
LINE = 64


class Arena:
    """Tensors of zeros beside one another. What it has lent stays valid as long as it is held."""

    def __init__(self) -> None:
        self._free = torch.zeros(0, dtype=torch.uint8)

    def zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """As ``torch.zeros``; begins at a cache line."""
        size = math.prod(shape) * dtype.itemsize
        taken = -(-size // LINE) * LINE
        if len(self._free) < taken:
            self._free = _large_pages(max(RESERVED, taken))
        own, self._free = self._free[:size], self._free[taken:]
        return own.view(dtype).view(shape)


def _large_pages(size: int) -> Tensor:
    """``size`` bytes of zeros that begin at a large page."""
    memory = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % PAGE
    return whole[start : start + size]
