"""Aggregation ``gated_sum`` (E19)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hope_model.aggregations.base import Aggregation, Read


class GatedSum(Aggregation):
    """``y = x + sum_k σ(g_k · x) M^(k)(x)``."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__(width, levels)
        self.gates = nn.Linear(width, levels)

    def forward(self, x: Tensor, reads: Sequence[Read]) -> Tensor:
        gates = torch.sigmoid(self.gates(x))
        return x + sum(gates[..., level, None] * read(x) for level, read in enumerate(reads))
