"""Every Prometheus series, fed by real events.

Names are vLLM's with the prefix `hope:`, so that its dashboards work after one substitution. A session id is
never a label: labels have few values, sessions are many.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from hope_server.engine.observer import TurnOutcome
from hope_server.engine.request import EngineStats
from hope_server.errors import (
    HopeError,
    QueueFull,
    SequenceConflict,
    SessionBusy,
    SessionQuotaExceeded,
    ShuttingDown,
    StorageQuotaExceeded,
    StoreUnavailable,
    TokenQuotaExceeded,
    TooManyTransfers,
    TurnQuotaExceeded,
)

LABELS = ("model_name", "engine")
# fmt: off
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)
INTER_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
REQUEST = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)
# fmt: on
STORE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITERATION = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
REQUEST_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
RATIO = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
NORM = tuple(10.0**power for power in range(-6, 4))

REJECTIONS: tuple[type[HopeError], ...] = (
    QueueFull,
    SessionBusy,
    SessionQuotaExceeded,
    ShuttingDown,
    StorageQuotaExceeded,
    TokenQuotaExceeded,
    TooManyTransfers,
    TurnQuotaExceeded,
)


class FrequencyWindow:
    """Writes per token over the last H tokens that a level read, to within one of its GRAINS."""

    GRAINS = 1024

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._grain = tokens // self.GRAINS
        self._reports: deque[tuple[int, int]] = deque()
        self._tokens = 0
        self._writes = 0

    def add(self, tokens: int, writes: int) -> float:
        """Count one report; returns the frequency over the window that ends with it."""
        self._tokens += tokens
        self._writes += writes
        if self._reports and self._reports[-1][0] + tokens <= self._grain:
            last_tokens, last_writes = self._reports.pop()
            tokens, writes = last_tokens + tokens, last_writes + writes
        self._reports.append((tokens, writes))
        while self._tokens - self._reports[0][0] >= self._limit:
            old_tokens, old_writes = self._reports.popleft()
            self._tokens -= old_tokens
            self._writes -= old_writes
        return self._writes / self._tokens if self._tokens else 0.0


class Metrics:
    """The registry and its series. Implements EngineObserver; safe to call from any thread.

    Args:
        model_name: Value of the label `model_name`.
        levels: Names of the learning levels, so that each series exists from the start.
        window_tokens: H of `hope:level_update_frequency`.
        state_bytes: Size of one session's state.
        slow_weights_sha256: Hex digest of theta and psi.
    """

    def __init__(
        self,
        *,
        model_name: str,
        levels: Sequence[str],
        window_tokens: int,
        state_bytes: int,
        slow_weights_sha256: str,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._values = (model_name, "0")
        ProcessCollector(registry=self.registry)
        self._lock = threading.Lock()
        self._windows = {level: FrequencyWindow(window_tokens) for level in levels}
        self._request_series()
        self._level_series()
        self._store_series()
        for level in levels:
            for series in self._by_level:
                series.labels(*self._values, level)
        self._gauge("session_state_bytes", "Size of one session's state.").set(state_bytes)
        info = Gauge(
            "hope:slow_weights_info", "Hash of the slow weights.", (*LABELS, "sha256"), registry=self.registry
        )
        info.labels(*self._values, slow_weights_sha256).set(1)
        self.slow_weights_ok = self._gauge(
            "slow_weights_ok", "1: the slow weights matched their hash when last checked."
        )
        self.slow_weights_ok.set(1)

    def watch(self, stats: Callable[[], EngineStats]) -> None:
        """Export the engine's momentary numbers, read at each scrape."""
        self.registry.register(_StatsCollector(stats, self._values))

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

    def on_error(self, error: HopeError) -> None:
        """An error was answered."""
        self._errors.labels(*self._values, error.code).inc()
        if isinstance(error, REJECTIONS):
            self._rejections.labels(*self._values, error.code).inc()
        if isinstance(error, SequenceConflict):
            self._commits.labels(*self._values, "conflict").inc()
        if isinstance(error, StoreUnavailable):
            self._commits.labels(*self._values, "error").inc()

    def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None:
        self._iteration.observe(batch_size + prompt_tokens)
        self._step.observe(seconds)

    def on_level_writes(self, level: str, *, tokens: int, writes: int, refused: int) -> None:
        labels = (*self._values, level)
        self._level_tokens.labels(*labels).inc(tokens)
        self._level_updates.labels(*labels).inc(writes)
        self._level_refused.labels(*labels).inc(refused)
        with self._lock:
            frequency = self._windows[level].add(tokens, writes)
            self._level_frequency.labels(*labels).set(frequency)

    def on_drift(self, level: str, ratio: float) -> None:
        self._drift.labels(*self._values, level).observe(ratio)

    def on_update_norm(self, level: str, norm: float) -> None:
        self._update_norm.labels(*self._values, level).observe(norm)

    def on_queue(self, seconds: float) -> None:
        self._queue.observe(seconds)

    def on_prompt(self, tokens: int) -> None:
        self._prompt_tokens.inc(tokens)

    def on_ttft(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def on_inter_token(self, seconds: float) -> None:
        self._inter_token.observe(seconds)

    def on_commit(self, seconds: float, *, tokens: int) -> None:
        self._commits.labels(*self._values, "ok").inc()
        self._commit_seconds.observe(seconds)

    def on_load(self, seconds: float, *, replayed_tokens: int) -> None:
        self._load_seconds.observe(seconds)
        self._replayed.inc(replayed_tokens)

    def on_snapshot(self, seconds: float, *, bytes_written: int) -> None:
        self._snapshot_seconds.observe(seconds)
        self._snapshot_bytes.inc(bytes_written)

    def on_snapshot_failed(self, error: BaseException) -> None:
        self._snapshot_failures.inc()

    def on_turn_end(
        self, outcome: TurnOutcome, *, prompt_tokens: int, generated_tokens: int, seconds: float
    ) -> None:
        self._success.labels(*self._values, outcome).inc()
        self._generation_tokens.inc(generated_tokens)
        self._turn_prompt.observe(prompt_tokens)
        self._turn_generated.observe(generated_tokens)
        self._latency.observe(seconds)

    def on_corrupted(self) -> None:
        self._corrupted.inc()

    def on_kernel_fallback(self, operation: str, error: BaseException) -> None:
        """A fused kernel did not compile; its reference runs from here on. The log says why."""
        self._fallbacks.labels(*self._values, operation).inc()

    def _request_series(self) -> None:
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens accepted.")
        self._generation_tokens = self._counter(
            "generation_tokens", "Tokens generated, counted as turns end."
        )
        self._corrupted = self._counter("corrupted_requests", "Turns ended by a non-finite state.")
        self._success = self._counter_by("request_success", "Turns ended, by how.", "finished_reason")
        for reason in ("stop", "length", "abort", "error"):
            self._success.labels(*self._values, reason)
        self._errors = self._counter_by("request_errors", "Errors answered, by code.", "code")
        self._rejections = self._counter_by(
            "admission_rejections", "Requests not admitted, by code.", "reason"
        )
        for kind in REJECTIONS:
            self._rejections.labels(*self._values, kind.default_code)
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Time to first token.", FIRST_TOKEN
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "Time between tokens.", INTER_TOKEN
        )
        self._latency = self._histogram("e2e_request_latency_seconds", "Length of a turn.", REQUEST)
        self._queue = self._histogram("request_queue_time_seconds", "Wait for a slot.", FIRST_TOKEN)
        self._turn_prompt = self._histogram("request_prompt_tokens", "New tokens of a turn.", REQUEST_TOKENS)
        self._turn_generated = self._histogram(
            "request_generation_tokens", "Answer's tokens.", REQUEST_TOKENS
        )
        self._fallbacks = self._counter_by(
            "kernel_fallbacks", "Fused kernels given up for their reference, by operation.", "operation"
        )
        self._iteration = self._histogram("iteration_tokens_total", "Tokens of one engine step.", ITERATION)
        self._step = self._histogram("engine_step_seconds", "Length of one engine step.", STORE)

    def _level_series(self) -> None:
        self._level_updates = self._counter_by("level_updates", "Writes that a level applied.", "level")
        self._level_tokens = self._counter_by("level_tokens", "Tokens that a level read.", "level")
        self._level_refused = self._counter_by(
            "level_updates_refused", "Non-finite updates refused.", "level"
        )
        self._level_frequency = Gauge(
            "hope:level_update_frequency",
            "Writes per token over the last tokens, counted.",
            (*LABELS, "level"),
            registry=self.registry,
        )
        self._update_norm = self._histogram_by("level_update_norm", "Norm of what a block changed.", NORM)
        self._drift = self._histogram_by("session_drift_ratio", "Distance from the initial state.", RATIO)
        self._by_level = (
            self._level_updates,
            self._level_tokens,
            self._level_refused,
            self._level_frequency,
            self._update_norm,
            self._drift,
        )

    def _store_series(self) -> None:
        self._commits = self._counter_by("state_commit", "Journal commits, by result.", "result")
        for result in ("ok", "conflict", "error"):
            self._commits.labels(*self._values, result)
        self._commit_seconds = self._histogram("state_commit_seconds", "Length of a journal commit.", STORE)
        self._load_seconds = self._histogram("state_load_seconds", "Time to make a session resident.", STORE)
        self._replayed = self._counter("state_replayed_tokens", "Tokens read again to restore sessions.")
        self._snapshot_seconds = self._histogram("state_save_seconds", "Length of a snapshot.", STORE)
        self._snapshot_bytes = self._counter("state_saved_bytes", "Bytes of snapshots written.")
        self._snapshot_failures = self._counter("state_save_failures", "Snapshots not read or written.")

    def _counter(self, name: str, doc: str) -> Counter:
        return Counter(f"hope:{name}", doc, LABELS, registry=self.registry).labels(*self._values)

    def _counter_by(self, name: str, doc: str, label: str) -> Counter:
        return Counter(f"hope:{name}", doc, (*LABELS, label), registry=self.registry)

    def _gauge(self, name: str, doc: str) -> Gauge:
        return Gauge(f"hope:{name}", doc, LABELS, registry=self.registry).labels(*self._values)

    def _histogram(self, name: str, doc: str, buckets: Iterable[float]) -> Histogram:
        series = Histogram(f"hope:{name}", doc, LABELS, registry=self.registry, buckets=tuple(buckets))
        return series.labels(*self._values)

    def _histogram_by(self, name: str, doc: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(
            f"hope:{name}", doc, (*LABELS, "level"), registry=self.registry, buckets=tuple(buckets)
        )


class _StatsCollector:
    """Gauges that are read from the engine when somebody looks."""

    def __init__(self, stats: Callable[[], EngineStats], values: tuple[str, str]) -> None:
        self._stats = stats
        self._values = values

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield self._one("num_requests_running", "Turns that hold a slot.", stats.running)
        yield self._one("num_requests_waiting", "Turns that wait for a slot.", stats.waiting)
        yield self._one("slots", "Sessions that fit on the device.", stats.slots)
        yield self._one("slots_used", "Sessions on the device.", stats.slots_used)
        sessions = GaugeMetricFamily(
            "hope:sessions", "Sessions in memory, by residency.", labels=(*LABELS, "residency")
        )
        sessions.add_metric((*self._values, "active"), stats.resident_active)
        sessions.add_metric((*self._values, "idle"), stats.resident_idle)
        sessions.add_metric((*self._values, "host"), stats.host_rows)
        yield sessions
        yield self._one("host_state_bytes", "States in the host's memory, in bytes.", stats.host_bytes)
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

    def _one(self, name: str, doc: str, value: int) -> Metric:
        family = GaugeMetricFamily(f"hope:{name}", doc, labels=LABELS)
        family.add_metric(self._values, value)
        return family
