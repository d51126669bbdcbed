"""Percentiles, and what a list of durations comes to."""

from collections.abc import Sequence

SHARES = (50, 90, 95, 99)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` percent of ``values`` (at least one) lie, linear between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summary(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles and maximum; None of nothing."""
    if not values:
        return None
    shares = {f"p{share}": percentile(values, share) for share in SHARES}
    return {"mean": sum(values) / len(values), **shares, "max": max(values)}
