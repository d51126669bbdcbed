"""Means of what was right or wrong, with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """The mean of ``count`` values and its standard error ``sd / sqrt(n)``; None for a single value."""

    value: float
    error: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.error is None else f"{self.value:.3f} ± {self.error:.3f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Of one value at least; the variance is over ``n - 1``."""
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return Mean(mean, None, 1)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return Mean(mean, math.sqrt(variance / count), count)
