"""A token by chance, or the best one, and whether logits are numbers, by the compiled kernel."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from hope_kernels.cpu import team
from hope_kernels.cpu.build import loaded
from hope_kernels.cpu.layout import Looks


def draw(logits: Tensor, temperature: float, u: float, first: int | None = None) -> int | None:
    """The token of ``logits [vocab]`` (finite) at which the softmax at ``temperature``, summed in order,
    passes ``u`` in [0, 1). None where no kernel is loaded, or none for their type and place.

    first: the first of the largest, where it is known.
    """
    library = _library_for(logits)
    if library is None:
        return None
    start, count = logits.data_ptr(), len(logits)
    top = library.hope_best(start, count) if first is None else first
    token: int = library.hope_draw(start, count, temperature, u, top)
    return token


def best(logits: Tensor) -> int | None:
    """The first token of the largest of ``logits [vocab]`` (no NaN). None as :func:`draw`."""
    library = _library_for(logits)
    if library is None:
        return None
    token: int = library.hope_best(logits.data_ptr(), len(logits))
    return token


def look(rows: Sequence[Tensor]) -> list[int] | None:
    """Of each of some ``[vocab]`` of one size: the first token of its largest; -1 where it holds an infinity
    or a NaN. None as :func:`draw`.
    """
    libraries = [_library_for(row) for row in rows]
    if not libraries or (library := libraries[0]) is None or None in libraries:
        return None
    best = (ctypes.c_int64 * len(rows))()
    pointers = (ctypes.c_void_p * len(rows))(*(row.data_ptr() for row in rows))
    call = Looks(ctypes.addressof(pointers), ctypes.addressof(best), len(rows), len(rows[0]))
    team.run(library.hope_look, call, library.hope_look_phases())
    return list(best)


def _library_for(values: Tensor) -> ctypes.CDLL | None:
    if values.dtype is not torch.float32 or values.device.type != "cpu" or not values.is_contiguous():
        return None
    return loaded()
