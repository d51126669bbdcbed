"""Prometheus' figures, fed by real events; ``series`` says which there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest

from hope_server.engine.events import HaltReason
from hope_server.engine.observer import LeaseOutcome, SessionOperation, TurnOutcome
from hope_server.engine.request import EngineStats
from hope_server.errors import Fenced, HopeError, SequenceConflict, StoreUnavailable
from hope_server.frequency_window import FrequencyWindow
from hope_server.gauges import ConnectionGauges, Connections, EngineGauges
from hope_server.series import REJECTIONS, Series

METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})


class Metrics:
    """The registry and its series. Implements EngineObserver; safe to call from any thread.

    Args:
        model_name: Value of the label `model_name`.
        levels: Period in tokens of each learning level, by its name; each series exists from the start.
        window_tokens: H of `hope:level_update_frequency`.
        state_bytes: Size of one session's state.
        slow_weights_sha256: Hex digest of theta and psi.
    """

    def __init__(
        self,
        *,
        model_name: str,
        levels: Mapping[str, int],
        window_tokens: int,
        state_bytes: int,
        slow_weights_sha256: str,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._values = (model_name, "0")
        ProcessCollector(registry=self.registry)
        self._series = Series(self.registry, self._values, levels)
        self._lock = threading.Lock()
        self._windows = {level: FrequencyWindow(window_tokens) for level in levels}
        self._series.gauge("session_state_bytes", "Size of one session's state.").set(state_bytes)
        self._series.info("build_info", "Version of the server.", "version", _version())
        self._series.info("slow_weights_info", "Hash of the slow weights.", "sha256", slow_weights_sha256)
        self.slow_weights_ok = self._series.gauge(
            "slow_weights_ok", "1: the slow weights matched their hash when last checked."
        )
        self.slow_weights_ok.set(1)

    def watch(self, stats: Callable[[], EngineStats]) -> None:
        """Export the engine's momentary numbers, read at each scrape."""
        self.registry.register(EngineGauges(stats, self._values))

    def watch_connections(self, connections: Callable[[], Connections]) -> None:
        """Export the HTTP server's connections, read at each scrape."""
        self.registry.register(ConnectionGauges(connections, self._values))

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

    def on_http(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its client left (`status` 0). `route`: as declared, not as asked for."""
        self._series.http.labels(
            *self._values, method if method in METHODS else "other", route, str(status)
        ).inc()
        self._series.http_seconds.labels(*self._values, route).observe(seconds)

    def on_error(self, error: HopeError) -> None:
        """An error was answered."""
        self._series.errors.of(error.code).inc()
        if isinstance(error, REJECTIONS):
            self._series.rejections.of(error.code).inc()
        if isinstance(error, SequenceConflict):
            self._series.commits.of("conflict").inc()
        if isinstance(error, Fenced):
            self._series.commits.of("fenced").inc()
        if isinstance(error, StoreUnavailable):
            self._series.commits.of("error").inc()

    def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None:
        self._series.iteration.observe(batch_size + prompt_tokens)
        self._series.step.observe(seconds)

    def on_level_writes(self, level: str, *, tokens: int, writes: int, refused: int) -> None:
        series = self._series.levels[level]
        series.tokens.inc(tokens)
        series.updates.inc(writes)
        series.refused.inc(refused)
        with self._lock:
            series.frequency.set(self._windows[level].add(tokens, writes))

    def on_drift(self, level: str, ratio: float) -> None:
        self._series.levels[level].drift.observe(ratio)

    def on_update_norm(self, level: str, norm: float) -> None:
        self._series.levels[level].update_norm.observe(norm)

    def on_queue(self, seconds: float) -> None:
        self._series.queue.observe(seconds)

    def on_prompt(self, tokens: int) -> None:
        self._series.prompt_tokens.inc(tokens)

    def on_ttft(self, seconds: float) -> None:
        self._series.first_token.observe(seconds)

    def on_inter_token(self, seconds: float) -> None:
        self._series.inter_token.observe(seconds)

    def on_commit(self, seconds: float, *, tokens: int) -> None:
        self._series.commits.of("ok").inc()
        self._series.commit_seconds.observe(seconds)

    def on_load(self, seconds: float, *, replayed_tokens: int) -> None:
        self._series.load_seconds.observe(seconds)
        self._series.replayed.inc(replayed_tokens)

    def on_snapshot(self, seconds: float, *, bytes_written: int) -> None:
        self._series.snapshot_seconds.observe(seconds)
        self._series.snapshot_bytes.inc(bytes_written)

    def on_snapshot_failed(self, error: BaseException) -> None:
        self._series.snapshot_failures.inc()

    def on_turn_end(
        self, outcome: TurnOutcome, *, prompt_tokens: int, generated_tokens: int, seconds: float
    ) -> None:
        self._series.success.of(outcome).inc()
        self._series.generation_tokens.inc(generated_tokens)
        self._series.turn_prompt.observe(prompt_tokens)
        self._series.turn_generated.observe(generated_tokens)
        self._series.latency.observe(seconds)

    def on_corrupted(self) -> None:
        self._series.corrupted.inc()

    def declare_operations(self, names: Iterable[str]) -> None:
        """Count each from nought: an alert sees a first fall-back only if there was a zero before it."""
        for name in names:
            self._series.fallbacks.of(name)

    def on_reload(self) -> None:
        self._series.reloads.inc()

    def on_learning_rollback(self, reason: HaltReason) -> None:
        self._series.learning_rollbacks.of(reason).inc()

    def on_canary(self, nats: float) -> None:
        self._series.canary.observe(nats)

    def on_kernel_fallback(self, operation: str, error: BaseException) -> None:
        """A fused kernel did not compile; its reference runs from here on. The log says why."""
        self._series.fallbacks.of(operation).inc()

    def on_session(self, operation: SessionOperation) -> None:
        self._series.operations.of(operation).inc()

    def on_eviction(self) -> None:
        self._series.evictions.inc()

    def on_lease(self, outcome: LeaseOutcome, *, held: int) -> None:
        self._series.leases.of(outcome).inc()
        self._series.leases_held.set(held)


def _version() -> str:
    try:
        return version("hope-serve")
    except PackageNotFoundError:
        return "unknown"
