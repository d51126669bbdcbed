"""PromQL of the series that a Hope server exports, for the models and instances that are chosen."""

from __future__ import annotations

MODEL = 'model_name=~"$model_name",instance=~"$instance"'
"""Matches one of the server's own series."""
PROCESS = 'job="hope",instance=~"$instance"'
"""Matches what is not about a model: the process, and whether it can be scraped."""


def gauge(name: str, *, by: str = "", where: str = "") -> str:
    """The sum of a gauge over workers."""
    return f"{_sum(by)}(hope:{name}{{{_all(where)}}})"


def rate(name: str, *, by: str = "", where: str = "") -> str:
    """A counter's increase per second, summed over workers."""
    return f"{_sum(by)}(rate(hope:{name}{{{_all(where)}}}[$__rate_interval]))"


def quantile(share: float, name: str, *, by: str = "") -> str:
    """Below it is a `share` of what a histogram observed lately."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, {rate(f'{name}_bucket', by=labels)})"


def mean(name: str, *, by: str = "") -> str:
    """The mean of what a histogram observed lately."""
    return f"{rate(f'{name}_sum', by=by)} / {rate(f'{name}_count', by=by)}"


def process(name: str) -> str:
    """A series of the process, by instance."""
    return f"{name}{{{PROCESS}}}"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"


def _all(where: str) -> str:
    return f"{MODEL},{where}" if where else MODEL
