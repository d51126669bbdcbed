"""The self-modifying matrix memory: one token, or a whole chunk in parallel.

:func:`delta_chunk` and :func:`delta_chunk_write` take and give values. On a GPU, where no gradient is asked
for, they run :data:`delta_chunk_rows`, which changes slab rows in place, on a copy.
"""

import torch
from torch import Tensor

from hope_kernels.delta_memory import chunk, reference
from hope_kernels.delta_memory.reference import delta_step
from hope_kernels.dispatch import Dispatch, on_gpu

MAX_FUSED_WIDTH = 64
"""Some lines of a head's memory stay in one program's registers."""


def _serves(
    delta: Tensor,
    base: Tensor,
    slots: Tensor,
    a: Tensor,
    w: Tensor,
    k: Tensor,
    log_alpha: Tensor,
    q: Tensor | None = None,
) -> bool:
    floats = [delta, base, a, w, k, log_alpha, *([] if q is None else [q])]
    return (
        on_gpu(slots, *floats)
        and k.shape[3] <= MAX_FUSED_WIDTH
        and all(x.element_size() == 4 for x in floats)
        and delta.is_contiguous()
    )


delta_chunk_rows = Dispatch(
    "delta_chunk_rows",
    reference.delta_chunk_rows,
    "hope_kernels.delta_memory.fused:delta_chunk_rows",
    _serves,
)


def delta_chunk(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor, q: Tensor
) -> tuple[Tensor, Tensor]:
    """Read and write a chunk of ``T`` tokens in parallel; equals ``T`` calls of :func:`delta_step`.

    Args:
        delta: ``[B, H, V, K]``.
        base: ``[H, V, K]``.
        a, k, q: ``[B, H, T, K]``.
        w: ``[B, H, T, V]``.
        log_alpha: ``[B, H, T]`` logarithm of the retention.

    Returns:
        ``(o [B, H, T, V], delta' [B, H, V, K])``.
    """
    if not on_gpu(delta, base, a, w, k, log_alpha, q):
        return chunk.delta_chunk(delta, base, a=a, w=w, k=k, log_alpha=log_alpha, q=q)
    written = delta.clone(memory_format=torch.contiguous_format)
    read = delta_chunk_rows(written, base, _all_rows(delta), a, w, k, log_alpha, q)
    assert read is not None
    return read, written


def delta_chunk_write(
    delta: Tensor, base: Tensor, *, a: Tensor, w: Tensor, k: Tensor, log_alpha: Tensor
) -> Tensor:
    """The write of :func:`delta_chunk` without its read: ``delta' [B, H, V, K]``."""
    if not on_gpu(delta, base, a, w, k, log_alpha):
        return chunk.delta_chunk_write(delta, base, a=a, w=w, k=k, log_alpha=log_alpha)
    written = delta.clone(memory_format=torch.contiguous_format)
    delta_chunk_rows(written, base, _all_rows(delta), a, w, k, log_alpha)
    return written


def _all_rows(delta: Tensor) -> Tensor:
    return torch.arange(len(delta), device=delta.device)


__all__ = ["delta_chunk", "delta_chunk_rows", "delta_chunk_write", "delta_step"]
