"""Every Prometheus series: its name, its labels, its buckets.

Names are vLLM's with the prefix `hope:`, so that its dashboards work after one substitution. A session id is
never a label: labels have few values, sessions are many. What is known before it happens has its series from
the start: a rate sees a first error, and an alert a first fall-back, only if there was a zero before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
from hope_server.errors import (
    HopeError,
    QueueFull,
    SessionBusy,
    SessionQuotaExceeded,
    ShuttingDown,
    StartupError,
    StorageQuotaExceeded,
    TokenQuotaExceeded,
    TooManyTransfers,
    TurnQuotaExceeded,
)
from hope_server.gauges import LABELS

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


class CounterBy:
    """A counter for each value of one label; those of ``known`` values are there from the start."""

    def __init__(self, counter: Counter, values: tuple[str, str], known: Iterable[str]) -> None:
        self._counter, self._values = counter, values
        for value in known:
            self.of(value)

    def of(self, value: str) -> Counter:
        return self._counter.labels(*self._values, value)


@dataclass(frozen=True, slots=True)
class LevelSeries:
    """Of one level: what it read, wrote and refused, how often it wrote of late, and how far it moved."""

    tokens: Counter
    updates: Counter
    refused: Counter
    frequency: Gauge
    update_norm: Histogram
    drift: Histogram


class Series:
    """The series of one registry.

    Args:
        registry: Where they are scraped.
        values: Of LABELS.
        levels: Period in tokens of each learning level, by its name.
    """

    def __init__(
        self, registry: CollectorRegistry, values: tuple[str, str], levels: Mapping[str, int]
    ) -> None:
        self._registry = registry
        self._values = values
        self._of_requests()
        self._of_turns()
        self._of_learning()
        self._of_store()
        self._of_sessions()
        self.levels = self._of_levels(levels)

    def info(self, name: str, doc: str, label: str, value: str) -> None:
        """A 1 whose label says something of the process."""
        gauge = Gauge(f"hope:{name}", doc, (*LABELS, label), registry=self._registry)
        gauge.labels(*self._values, value).set(1)

    def gauge(self, name: str, doc: str) -> Gauge:
        return Gauge(f"hope:{name}", doc, LABELS, registry=self._registry).labels(*self._values)

    def _of_requests(self) -> None:
        self.http = Counter(
            "hope:http_requests",
            "HTTP requests answered; status 0: the client left before.",
            (*LABELS, "method", "route", "status"),
            registry=self._registry,
        )
        self.http_seconds = Histogram(
            "hope:http_request_duration_seconds",
            "From a request's head to the end of its answer.",
            (*LABELS, "route"),
            registry=self._registry,
            buckets=HTTP,
        )
        self.errors = self._counter_by(
            "request_errors", "Errors answered, by code.", "code", _codes(HopeError)
        )
        rejected = (kind.default_code for kind in REJECTIONS)
        self.rejections = self._counter_by(
            "admission_rejections", "Requests not admitted, by code.", "reason", rejected
        )

    def _of_turns(self) -> None:
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens accepted.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated, counted as turns end.")
        self.corrupted = self._counter("corrupted_requests", "Non-finite results; the row was dropped.")
        self.success = self._counter_by(
            "request_success", "Turns ended, by how.", "finished_reason", get_args(TurnOutcome)
        )
        self.first_token = self._histogram("time_to_first_token_seconds", "Time to first token.", FIRST_TOKEN)
        self.inter_token = self._histogram("inter_token_latency_seconds", "Time between tokens.", INTER_TOKEN)
        self.latency = self._histogram("e2e_request_latency_seconds", "Length of a turn.", REQUEST)
        self.queue = self._histogram("request_queue_time_seconds", "Wait for a slot.", FIRST_TOKEN)
        self.turn_prompt = self._histogram("request_prompt_tokens", "New tokens of a turn.", REQUEST_TOKENS)
        self.turn_generated = self._histogram("request_generation_tokens", "Answer's tokens.", REQUEST_TOKENS)
        self.fallbacks = self._counter_by(
            "kernel_fallbacks", "Fused kernels given up for their reference, by operation.", "operation"
        )
        self.iteration = self._histogram("iteration_tokens_total", "Tokens of one engine step.", ITERATION)
        self.step = self._histogram("engine_step_seconds", "Length of one engine step.", STORE)

    def _of_learning(self) -> None:
        self.learning_rollbacks = self._counter_by(
            "learning_rollbacks",
            "Sessions whose learning ended at their last good boundary.",
            "reason",
            get_args(HaltReason),
        )
        self.reloads = self._counter(
            "session_reloads", "Rows made again from the store after a non-finite result."
        )
        self.canary = self._histogram(
            "canary_divergence_nats", "How far judged writes moved the canaries' answers.", DIVERGENCE
        )

    def _of_levels(self, levels: Mapping[str, int]) -> dict[str, LevelSeries]:
        labels, registry = (*LABELS, "level"), self._registry
        updates = Counter("hope:level_updates", "Writes that a level applied.", labels, registry=registry)
        tokens = Counter("hope:level_tokens", "Tokens that a level read.", labels, registry=registry)
        refused = Counter(
            "hope:level_updates_refused", "Writes that the guards refused.", labels, registry=registry
        )
        frequency = Gauge(
            "hope:level_update_frequency",
            "Writes per token over the last tokens, counted.",
            labels,
            registry=registry,
        )
        period = Gauge(
            "hope:level_period_tokens",
            "Tokens between two writes of a level, as the model declares them.",
            labels,
            registry=registry,
        )
        norm = Histogram(
            "hope:level_update_norm",
            "Norm of what a block changed.",
            labels,
            registry=registry,
            buckets=NORM,
        )
        drift = Histogram(
            "hope:session_drift_ratio",
            "Distance from the initial state.",
            labels,
            registry=registry,
            buckets=RATIO,
        )
        found = {}
        for level, declared in levels.items():
            values = (*self._values, level)
            period.labels(*values).set(declared)
            found[level] = LevelSeries(
                tokens.labels(*values),
                updates.labels(*values),
                refused.labels(*values),
                frequency.labels(*values),
                norm.labels(*values),
                drift.labels(*values),
            )
        return found

    def _of_store(self) -> None:
        self.commits = self._counter_by(
            "state_commit", "Journal commits, by result.", "result", ("ok", "conflict", "fenced", "error")
        )
        self.commit_seconds = self._histogram("state_commit_seconds", "Length of a journal commit.", STORE)
        self.load_seconds = self._histogram("state_load_seconds", "Time to make a session resident.", STORE)
        self.replayed = self._counter("state_replayed_tokens", "Tokens read again to restore sessions.")
        self.snapshot_seconds = self._histogram("state_save_seconds", "Length of a snapshot.", STORE)
        self.snapshot_bytes = self._counter("state_saved_bytes", "Bytes of snapshots written.")
        self.snapshot_failures = self._counter("state_save_failures", "Snapshots not read or written.")

    def _of_sessions(self) -> None:
        self.operations = self._counter_by(
            "session_operations", "What was done to sessions.", "operation", get_args(SessionOperation)
        )
        self.evictions = self._counter(
            "session_evictions", "Idle sessions that gave their slot on the device to another."
        )
        self.leases = self._counter_by(
            "session_leases",
            "Leases taken, refused because another worker holds them, given back, and lost.",
            "outcome",
            get_args(LeaseOutcome),
        )
        self.leases_held = self.gauge("session_leases_held", "Sessions that this worker may write.")

    def _counter(self, name: str, doc: str) -> Counter:
        return Counter(f"hope:{name}", doc, LABELS, registry=self._registry).labels(*self._values)

    def _counter_by(self, name: str, doc: str, label: str, known: Iterable[str] = ()) -> CounterBy:
        counter = Counter(f"hope:{name}", doc, (*LABELS, label), registry=self._registry)
        return CounterBy(counter, self._values, known)

    def _histogram(self, name: str, doc: str, buckets: Iterable[float]) -> Histogram:
        series = Histogram(f"hope:{name}", doc, LABELS, registry=self._registry, buckets=tuple(buckets))
        return series.labels(*self._values)


def _codes(kind: type[HopeError]) -> Iterator[str]:
    """Of every error below `kind` that can be answered."""
    for below in kind.__subclasses__():
        if issubclass(below, StartupError):
            continue
        yield from _codes(below) if below.__subclasses__() else (below.default_code,)
