"""A token by chance, or the best one, by the compiled kernel."""

import ctypes

import torch
from torch import Tensor

from hope_kernels.cpu.build import loaded


def draw(logits: Tensor, temperature: float, u: float) -> int | None:
    """The token of ``logits [vocab]`` (finite, on a CPU) at which the softmax at ``temperature``, summed in
    order, passes ``u`` in [0, 1). None where no kernel is loaded, or none for their type.
    """
    library = _library_for(logits)
    if library is None:
        return None
    token: int = library.hope_draw(logits.data_ptr(), len(logits), temperature, u)
    return token


def best(logits: Tensor) -> int | None:
    """The first token of the largest of ``logits [vocab]`` (no NaN, on a CPU). None as :func:`draw`."""
    library = _library_for(logits)
    if library is None:
        return None
    token: int = library.hope_best(logits.data_ptr(), len(logits))
    return token


def finite(values: Tensor) -> bool | None:
    """Whether ``values [n]`` (on a CPU) hold no infinity and no NaN. None as :func:`draw`."""
    library = _library_for(values)
    return None if library is None else bool(library.hope_finite(values.data_ptr(), len(values)))


def _library_for(values: Tensor) -> ctypes.CDLL | None:
    return loaded() if values.dtype is torch.float32 and values.is_contiguous() else None
