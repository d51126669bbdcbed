"""A token by chance, by the compiled kernel."""

import torch
from torch import Tensor

from hope_kernels.cpu.build import loaded


def draw(logits: Tensor, temperature: float, u: float) -> int | None:
    """The token of ``logits [vocab]`` (finite, on a CPU) at which the softmax at ``temperature``, summed in
    order, passes ``u`` in [0, 1). None where no kernel is loaded, or none for their type.
    """
    library = loaded()
    if library is None or logits.dtype is not torch.float32 or not logits.is_contiguous():
        return None
    token: int = library.hope_draw(logits.data_ptr(), len(logits), temperature, u)
    return token
