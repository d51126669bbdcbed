"""Momentary figures, read at each scrape from what has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from hope_server.engine.request import EngineStats

LABELS = ("model_name", "engine")


@dataclass(frozen=True, slots=True)
class Connections:
    """HTTP connections that are open, and how many may be."""

    open: int
    most: int


class EngineGauges:
    """Turns, slots and sessions on the device.

    Args:
        stats: As of the last engine step.
        values: Of the labels.
    """

    def __init__(self, stats: Callable[[], EngineStats], values: tuple[str, str]) -> None:
        self._stats = stats
        self._values = values

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        for name, doc, value in (
            ("num_requests_running", "Turns that hold a slot.", stats.running),
            ("num_requests_waiting", "Turns that wait for a slot.", stats.waiting),
            ("num_requests_waiting_max", "Turns that may wait for a slot.", stats.max_waiting),
            ("slots", "Sessions that fit on the device.", stats.slots),
            ("slots_used", "Sessions on the device.", stats.slots_used),
            ("sessions_frozen", "Sessions on the device that learn no more.", stats.frozen),
        ):
            yield _gauge(name, doc, self._values, value)
        sessions = GaugeMetricFamily(
            "hope:sessions", "Sessions in memory, by residency.", labels=(*LABELS, "residency")
        )
        sessions.add_metric((*self._values, "active"), stats.resident_active)
        sessions.add_metric((*self._values, "idle"), stats.resident_idle)
        sessions.add_metric((*self._values, "host"), stats.host_rows)
        yield sessions
        yield from self._host_tier(stats)

    def _host_tier(self, stats: EngineStats) -> Iterable[Metric]:
        doc = "States that left the device, in the host's memory, in bytes."
        yield _gauge("host_state_bytes", doc, self._values, stats.host_bytes)
        lookups = CounterMetricFamily(
            "hope:host_state_lookups",
            "Sessions without a slot that were looked for in the host's memory.",
            labels=(*LABELS, "result"),
        )
        lookups.add_metric((*self._values, "hit"), stats.host_hits)
        lookups.add_metric((*self._values, "miss"), stats.host_misses)
        yield lookups
        evictions = CounterMetricFamily(
            "hope:host_state_evictions", "States given up in the host's memory for others.", labels=LABELS
        )
        evictions.add_metric(self._values, stats.host_evictions)
        yield evictions


class ConnectionGauges:
    """The HTTP server's connections."""

    def __init__(self, connections: Callable[[], Connections], values: tuple[str, str]) -> None:
        self._connections = connections
        self._values = values

    def collect(self) -> Iterable[Metric]:
        found = self._connections()
        yield _gauge("http_connections", "Connections that are open.", self._values, found.open)
        yield _gauge("http_connections_max", "Connections that may be open.", self._values, found.most)


def _gauge(name: str, doc: str, values: tuple[str, str], value: int) -> Metric:
    family = GaugeMetricFamily(f"hope:{name}", doc, labels=LABELS)
    family.add_metric(values, value)
    return family
