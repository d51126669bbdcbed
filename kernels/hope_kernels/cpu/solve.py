"""How much taught tokens have to pull, by the compiled kernel; see ``hope_model.attention.margins``."""

import ctypes

import torch
from torch import Tensor

from hope_kernels.cpu import tangent_layout as layout
from hope_kernels.cpu.build import load


def solve(
    gram: Tensor, margins: Tensor, weights: Tensor, *, steps: int, halvings: int, converged: float
) -> Tensor:
    """``c [n]`` fp64 that minimises ``sum w log(1 + exp(-(z + K c))) + c' K c / 2``, of fp64 tensors.

    Args:
        gram: ``K [n, n]``.
        margins, weights: ``z [n]``, ``w [n]``.
        steps: Newton's, at most.
        halvings: of a step that gains nothing, at most.
        converged: gain of a step, of what it began with, that is too small for another one.
    """
    count = len(margins)
    given = [tensor.double().contiguous() for tensor in (gram, margins, weights)]
    assert [tensor.shape for tensor in given] == [(count, count), (count,), (count,)]
    pull, scratch = (torch.empty(size, dtype=torch.float64) for size in (count, (count + 4) * count))
    pointers = [tensor.data_ptr() for tensor in (*given, pull, scratch)]
    call = layout.Solving(*pointers, count, steps, halvings, converged)
    load("tangent").hope_solve(ctypes.addressof(call))
    return pull
