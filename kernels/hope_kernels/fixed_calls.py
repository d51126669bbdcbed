"""Rows of any number in calls of one shape, for a GPU.

A library picks a kernel, and the order of its sums, by the shape of a call; so a row's bits would depend on
how many share it. In calls of one shape they do not, and a batch that waits for memory pays nothing for more.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CALL_ROWS = 64
"""Rows of a call; zeros fill the last one up."""


def in_fixed_calls(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function``, of ``[CALL_ROWS, K]``, on ``x [..., K]``: ``[..., N]``."""
    rows = x.reshape(-1, x.shape[-1])
    filled = F.pad(rows, (0, 0, 0, -len(rows) % CALL_ROWS))
    parts = [function(part) for part in filled.split(CALL_ROWS)]
    y = parts[0] if len(parts) == 1 else torch.cat(parts)
    return y[: len(rows)].reshape(*x.shape[:-1], y.shape[-1])
