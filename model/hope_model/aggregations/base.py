"""What an aggregation is: it decides what each level reads and how the readings meet the residual stream."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

Read = Callable[[Tensor], Tensor]
"""Reads one level's memory at ``[..., D]`` and gives ``[..., D]``."""


class Aggregation(nn.Module, ABC):
    """``forward(x, reads)``; every reader is called exactly once, fastest level first."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.width = width
        self.levels = levels

    @abstractmethod
    def forward(self, x: Tensor, reads: Sequence[Read]) -> Tensor:
        """``x [..., D]`` -> ``[..., D]``, residual included."""
