"""What makes training fast on the machine at hand: allocator, threads, precision."""

import contextlib
import ctypes
import sys
import time
from collections.abc import Callable

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MADV_HUGEPAGE = 14
_HEAP_BYTES = 4 << 30
_PAGE_BYTES = 2 << 20


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers instead of giving them back to the kernel, and take large pages.

    Activations are larger than the default threshold, so each would be mapped and page-faulted anew
    (measured: 1.4 times the tokens per second), and walks through them miss the tables of small pages
    (1.15 times). Other systems are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_MMAP_MAX, 0)
        _advise_large_pages(libc)


def _advise_large_pages(libc: ctypes.CDLL) -> None:
    """For what the heap grows into next: it is asked for and given back, and costs nothing until written."""
    libc.malloc.restype = ctypes.c_void_p
    start = libc.malloc(ctypes.c_size_t(_HEAP_BYTES))
    if not start:
        return
    first = -(-start // _PAGE_BYTES) * _PAGE_BYTES
    length = (start + _HEAP_BYTES - first) // _PAGE_BYTES * _PAGE_BYTES
    libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(start))


def faster_precision(run: Callable[[], None], device: torch.device) -> str:
    """``bfloat16`` or ``float32``, whichever runs ``run`` in less time (two turns, the better counts)."""
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    for _ in range(2):
        for name in best:
            with autocast(name, device):
                start = time.perf_counter()
                run()
            best[name] = min(best[name], time.perf_counter() - start)
    return min(best, key=lambda name: best[name])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast for products of slow weights; memories keep their own type (``guards.full_precision``)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
