"""What a memory's reading is pulled to: gradients of its objective with respect to that reading (E40)."""

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]
"""``(reading [..., V], target [..., V]) -> gradient [..., V]``."""

HUBER_THRESHOLD = 1.0
"""Length of an error from which on the objective grows linearly."""


def dot(reading: Tensor, target: Tensor) -> Tensor:
    """``-<y, v>``."""
    return -target


def squared(reading: Tensor, target: Tensor) -> Tensor:
    """``½ |y - v|²``."""
    return reading - target


def cubed(reading: Tensor, target: Tensor) -> Tensor:
    """``⅓ Σ |y - v|³`` with ``|e| = sqrt(e² + 1e-6)``."""
    error = reading - target
    return error * torch.sqrt(error.square() + 1e-6)


def huber(reading: Tensor, target: Tensor) -> Tensor:
    """``½ |e|²`` up to a length of :data:`HUBER_THRESHOLD`, linear beyond: the gradient is never longer."""
    error = reading - target
    length = torch.sqrt(error.square().sum(-1, keepdim=True).clamp_min(HUBER_THRESHOLD**2))
    return error * (HUBER_THRESHOLD / length)
