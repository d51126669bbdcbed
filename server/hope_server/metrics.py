"""Every Prometheus series, fed by real events.

Names are vLLM's with the prefix `hope:`, so that its dashboards work after one substitution. A session id is
never a label: labels have few values, sessions are many.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from hope_server.buckets import (
    DIVERGENCE,
    FIRST_TOKEN,
    HTTP,
    INTER_TOKEN,
    ITERATION,
    NORM,
    RATIO,
    REQUEST,
    REQUEST_TOKENS,
    STORE,
)
from hope_server.engine.events import HaltReason
from hope_server.engine.observer import LeaseOutcome, SessionOperation, TurnOutcome
from hope_server.engine.request import EngineStats
from hope_server.errors import (
    Fenced,
    HopeError,
    QueueFull,
    SequenceConflict,
    SessionBusy,
    SessionQuotaExceeded,
    ShuttingDown,
    StartupError,
    StorageQuotaExceeded,
    StoreUnavailable,
    TokenQuotaExceeded,
    TooManyTransfers,
    TurnQuotaExceeded,
)
from hope_server.frequency_window import FrequencyWindow
from hope_server.gauges import LABELS, ConnectionGauges, Connections, EngineGauges

METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
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
        self._lock = threading.Lock()
        self._windows = {level: FrequencyWindow(window_tokens) for level in levels}
        self._request_series()
        self._level_series()
        self._store_series()
        self._session_series()
        for level, period in levels.items():
            self._level_period.labels(*self._values, level).set(period)
            for series in self._by_level:
                series.labels(*self._values, level)
        self._gauge("session_state_bytes", "Size of one session's state.").set(state_bytes)
        build = Gauge(
            "hope:build_info", "Version of the server.", (*LABELS, "version"), registry=self.registry
        )
        build.labels(*self._values, _version()).set(1)
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
        self.registry.register(EngineGauges(stats, self._values))

    def watch_connections(self, connections: Callable[[], Connections]) -> None:
        """Export the HTTP server's connections, read at each scrape."""
        self.registry.register(ConnectionGauges(connections, self._values))

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)

    def on_http(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered, or its client left (`status` 0). `route`: as declared, not as asked for."""
        self._http.labels(*self._values, method if method in METHODS else "other", route, str(status)).inc()
        self._http_seconds.labels(*self._values, route).observe(seconds)

    def on_error(self, error: HopeError) -> None:
        """An error was answered."""
        self._errors.labels(*self._values, error.code).inc()
        if isinstance(error, REJECTIONS):
            self._rejections.labels(*self._values, error.code).inc()
        if isinstance(error, SequenceConflict):
            self._commits.labels(*self._values, "conflict").inc()
        if isinstance(error, Fenced):
            self._commits.labels(*self._values, "fenced").inc()
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

    def declare_operations(self, names: Iterable[str]) -> None:
        """Count each from nought: an alert sees a first fall-back only if there was a zero before it."""
        for name in names:
            self._fallbacks.labels(*self._values, name)

    def on_reload(self) -> None:
        self._reloads.inc()

    def on_learning_rollback(self, reason: HaltReason) -> None:
        self._learning_rollbacks.labels(*self._values, reason).inc()

    def on_canary(self, nats: float) -> None:
        self._canary.observe(nats)

    def on_kernel_fallback(self, operation: str, error: BaseException) -> None:
        """A fused kernel did not compile; its reference runs from here on. The log says why."""
        self._fallbacks.labels(*self._values, operation).inc()

    def on_session(self, operation: SessionOperation) -> None:
        self._operations.labels(*self._values, operation).inc()

    def on_eviction(self) -> None:
        self._evictions.inc()

    def on_lease(self, outcome: LeaseOutcome, *, held: int) -> None:
        self._leases.labels(*self._values, outcome).inc()
        self._leases_held.set(held)

    def _request_series(self) -> None:
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens accepted.")
        self._generation_tokens = self._counter(
            "generation_tokens", "Tokens generated, counted as turns end."
        )
        self._corrupted = self._counter("corrupted_requests", "Non-finite results; the row was dropped.")
        self._success = self._counter_by("request_success", "Turns ended, by how.", "finished_reason")
        for reason in ("stop", "length", "abort", "error"):
            self._success.labels(*self._values, reason)
        self._http = Counter(
            "hope:http_requests",
            "HTTP requests answered; status 0: the client left before.",
            (*LABELS, "method", "route", "status"),
            registry=self.registry,
        )
        self._http_seconds = Histogram(
            "hope:http_request_duration_seconds",
            "From a request's head to the end of its answer.",
            (*LABELS, "route"),
            registry=self.registry,
            buckets=HTTP,
        )
        self._errors = self._counter_by("request_errors", "Errors answered, by code.", "code")
        for code in _codes(HopeError):  # a rate sees a first error only if there was a zero before it
            self._errors.labels(*self._values, code)
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
            "level_updates_refused", "Writes that the guards refused.", "level"
        )
        self._learning_rollbacks = self._counter_by(
            "learning_rollbacks", "Sessions whose learning ended at their last good boundary.", "reason"
        )
        for reason in get_args(HaltReason):
            self._learning_rollbacks.labels(*self._values, reason)
        self._reloads = self._counter(
            "session_reloads", "Rows made again from the store after a non-finite result."
        )
        self._canary = self._histogram(
            "canary_divergence_nats", "How far judged writes moved the canaries' answers.", DIVERGENCE
        )
        self._level_frequency = Gauge(
            "hope:level_update_frequency",
            "Writes per token over the last tokens, counted.",
            (*LABELS, "level"),
            registry=self.registry,
        )
        self._level_period = Gauge(
            "hope:level_period_tokens",
            "Tokens between two writes of a level, as the model declares them.",
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
        for result in ("ok", "conflict", "fenced", "error"):
            self._commits.labels(*self._values, result)
        self._commit_seconds = self._histogram("state_commit_seconds", "Length of a journal commit.", STORE)
        self._load_seconds = self._histogram("state_load_seconds", "Time to make a session resident.", STORE)
        self._replayed = self._counter("state_replayed_tokens", "Tokens read again to restore sessions.")
        self._snapshot_seconds = self._histogram("state_save_seconds", "Length of a snapshot.", STORE)
        self._snapshot_bytes = self._counter("state_saved_bytes", "Bytes of snapshots written.")
        self._snapshot_failures = self._counter("state_save_failures", "Snapshots not read or written.")

    def _session_series(self) -> None:
        self._operations = self._counter_by("session_operations", "What was done to sessions.", "operation")
        for operation in get_args(SessionOperation):
            self._operations.labels(*self._values, operation)
        self._evictions = self._counter(
            "session_evictions", "Idle sessions that gave their slot on the device to another."
        )
        self._leases = self._counter_by(
            "session_leases",
            "Leases taken, refused because another worker holds them, given back, and lost.",
            "outcome",
        )
        for outcome in get_args(LeaseOutcome):
            self._leases.labels(*self._values, outcome)
        self._leases_held = self._gauge("session_leases_held", "Sessions that this worker may write.")

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


def _codes(kind: type[HopeError]) -> Iterator[str]:
    """Of every error below `kind` that can be answered."""
    for below in kind.__subclasses__():
        if issubclass(below, StartupError):
            continue
        yield from _codes(below) if below.__subclasses__() else (below.default_code,)


def _version() -> str:
    try:
        return version("hope-serve")
    except PackageNotFoundError:
        return "unknown"
