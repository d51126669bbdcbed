"""Aggregation ``concat`` (E20)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hope_model.aggregations.base import Aggregation, Read


class Concat(Aggregation):
    """``y = x + W [M^(1)(x); ...; M^(K)(x)]``."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__(width, levels)
        self.projection = nn.Linear(levels * width, width, bias=False)

    def forward(self, x: Tensor, reads: Sequence[Read]) -> Tensor:
        joined: Tensor = self.projection(torch.cat([read(x) for read in reads], dim=-1))
        return x + joined
