"""Aggregation ``chain`` (E18)."""

from collections.abc import Sequence

from torch import Tensor

from hope_model.aggregations.base import Aggregation, Read


class Chain(Aggregation):
    """Each level reads what the faster one wrote: ``y <- y + M^(k)(y)``."""

    def forward(self, x: Tensor, reads: Sequence[Read]) -> Tensor:
        for read in reads:
            x = x + read(x)
        return x
