"""Aggregation ``attention`` (E21)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hope_model.aggregations.base import Aggregation, Read


class Attention(Aggregation):
    """The levels are the entries of an associative memory (E2): ``y = x + softmax(q · k_j / sqrt(D)) v_j``,
    with ``q`` made from ``x``, keys and values from each level's reading."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__(width, levels)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, reads: Sequence[Read]) -> Tensor:
        readings = torch.stack([read(x) for read in reads], dim=-2)  # [..., K, D]
        return x + associative_read(self.query(x), self.key(readings), self.value(readings))


def associative_read(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention as a memory (E1, E2): ``query [..., D]``, ``keys, values [..., N, D]`` -> ``[..., D]``."""
    similarity = torch.einsum("...d,...nd->...n", query, keys) / math.sqrt(query.shape[-1])
    return torch.einsum("...n,...nd->...d", similarity.softmax(-1), values)
