"""The guards of update rules, inside kernels."""

import triton
import triton.language as tl


@triton.jit
def bound(squared, limit):
    """What brings a norm down to ``limit``; 1 for a smaller one, NaN for one that is not a number."""
    over = limit / tl.sqrt(tl.maximum(squared, limit * limit))
    return tl.where(squared <= limit * limit, 1.0, tl.where(squared == squared, over, squared))


@triton.jit
def is_wrong(values):
    """1 for every value that is not finite, else 0."""
    return tl.where(tl.abs(values) < float("inf"), 0, 1)
