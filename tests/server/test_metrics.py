"""Series and their values, fed by hand."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hope_kernels import dispatch
from hope_server.engine.request import EngineStats
from hope_server.errors import Fenced, QueueFull, SequenceConflict, StoreUnavailable
from hope_server.frequency_window import FrequencyWindow
from hope_server.gauges import Connections
from hope_server.metrics import Metrics

SHA256 = "ab" * 32


def magnitude(x: torch.Tensor) -> torch.Tensor:
    """The reference of an operation."""
    return x.abs()


def broken_kernel(x: torch.Tensor) -> torch.Tensor:
    """Its fused form, which cannot be compiled."""
    raise ImportError("No module named 'triton'")


def serves(x: torch.Tensor) -> bool:
    """The fused form would take anything."""
    return True


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(
        model_name="m",
        levels={"phi": 1, "cms-64": 64},
        window_tokens=1000,
        state_bytes=77,
        slow_weights_sha256=SHA256,
    )


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float:
    (found,) = (
        number for sample, own, number in samples(metrics) if sample == name and labels.items() <= own.items()
    )
    return found


def test_every_series_that_is_promised_is_there_from_the_start(metrics: Metrics) -> None:
    metrics.watch(EngineStats)
    names = {name for name, _, _ in samples(metrics)}
    by_level = (
        "level_updates_total",
        "level_tokens_total",
        "level_update_frequency",
        "level_update_norm_count",
        "level_updates_refused_total",
        "session_drift_ratio_count",
    )
    others = (
        "sessions",
        "slow_weights_info",
        "state_commit_seconds_count",
        "state_load_seconds_count",
        "session_state_bytes",
        "session_operations_total",
        "session_evictions_total",
        "session_leases_total",
        "session_leases_held",
        "build_info",
        # vLLM's, so that its dashboards work after one substitution
        "num_requests_running",
        "num_requests_waiting",
        "prompt_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "request_queue_time_seconds_bucket",
        "request_prompt_tokens_bucket",
        "request_generation_tokens_bucket",
        "request_success_total",
        "iteration_tokens_total_bucket",
        "corrupted_requests_total",
        "session_reloads_total",
        "learning_rollbacks_total",
        "sessions_frozen",
        "canary_divergence_nats_bucket",
    )
    assert {f"hope:{name}" for name in (*by_level, *others)} <= names
    for name in by_level:
        for level in ("phi", "cms-64"):
            assert value(metrics, f"hope:{name}", level=level) == 0
    for name, labels, _ in samples(metrics):
        if name.startswith("hope:"):
            assert (labels["model_name"], labels["engine"]) == ("m", "0")


def test_the_slow_weights_hash_is_a_label(metrics: Metrics) -> None:
    assert value(metrics, "hope:slow_weights_info", sha256=SHA256) == 1
    assert value(metrics, "hope:session_state_bytes") == 77


def test_level_counts_add_up_and_give_the_frequency(metrics: Metrics) -> None:
    for _ in range(5):
        metrics.on_level_writes("cms-64", tokens=64, writes=1, refused=0)
    metrics.on_level_writes("cms-64", tokens=64, writes=0, refused=1)
    assert value(metrics, "hope:level_tokens_total", level="cms-64") == 6 * 64
    assert value(metrics, "hope:level_updates_total", level="cms-64") == 5
    assert value(metrics, "hope:level_updates_refused_total", level="cms-64") == 1
    assert value(metrics, "hope:level_update_frequency", level="cms-64") == 5 / (6 * 64)
    assert value(metrics, "hope:level_tokens_total", level="phi") == 0


def test_ends_of_learning_are_counted_by_reason_and_what_is_frozen_by_the_engine(metrics: Metrics) -> None:
    metrics.watch(lambda: EngineStats(slots=4, frozen=3))
    metrics.on_learning_rollback("canary")
    found = [
        value(metrics, "hope:learning_rollbacks_total", reason=reason)
        for reason in ("non_finite", "canary", "output")
    ]
    assert found == [0, 1, 0]
    assert value(metrics, "hope:sessions_frozen") == 3


def test_errors_are_counted_by_code(metrics: Metrics) -> None:
    for error in (QueueFull("full"), SequenceConflict("late"), Fenced("other"), StoreUnavailable("gone")):
        metrics.on_error(error)
        assert value(metrics, "hope:request_errors_total", code=error.code) == 1
    assert value(metrics, "hope:admission_rejections_total", reason="queue_full") == 1
    assert value(metrics, "hope:state_commit_total", result="conflict") == 1
    assert value(metrics, "hope:state_commit_total", result="fenced") == 1
    assert value(metrics, "hope:state_commit_total", result="error") == 1


def test_every_error_that_can_be_answered_is_counted_from_nought(metrics: Metrics) -> None:
    for code in ("internal_error", "store_unavailable", "invalid_request", "session_not_found", "queue_full"):
        assert value(metrics, "hope:request_errors_total", code=code) == 0
    codes = {labels["code"] for name, labels, _ in samples(metrics) if name == "hope:request_errors_total"}
    assert not codes & {"startup_error", "hope_error", "request_error", "server_error"}


def test_turns_and_store_calls_are_observed(metrics: Metrics) -> None:
    metrics.on_prompt(10)
    metrics.on_turn_end("stop", prompt_tokens=10, generated_tokens=4, seconds=1.0)
    metrics.on_commit(0.001, tokens=4)
    metrics.on_load(0.2, replayed_tokens=30)
    metrics.on_snapshot(0.1, bytes_written=1000)
    metrics.on_corrupted()
    metrics.on_reload()
    metrics.on_canary(0.25)
    for name, expected in {
        "prompt_tokens_total": 10,
        "generation_tokens_total": 4,
        "request_prompt_tokens_sum": 10,
        "state_commit_seconds_count": 1,
        "state_load_seconds_count": 1,
        "state_replayed_tokens_total": 30,
        "state_saved_bytes_total": 1000,
        "corrupted_requests_total": 1,
        "session_reloads_total": 1,
        "canary_divergence_nats_sum": 0.25,
    }.items():
        assert value(metrics, f"hope:{name}") == expected
    assert value(metrics, "hope:request_success_total", finished_reason="stop") == 1


def test_each_level_says_its_declared_period(metrics: Metrics) -> None:
    assert value(metrics, "hope:level_period_tokens", level="phi") == 1
    assert value(metrics, "hope:level_period_tokens", level="cms-64") == 64


def test_what_is_done_to_sessions_is_counted(metrics: Metrics) -> None:
    metrics.on_session("fork")
    metrics.on_eviction()
    metrics.on_lease("acquired", held=1)
    metrics.on_lease("refused", held=1)
    metrics.on_lease("lost", held=0)
    assert value(metrics, "hope:session_operations_total", operation="fork") == 1
    assert value(metrics, "hope:session_operations_total", operation="rollback") == 0
    assert value(metrics, "hope:session_evictions_total") == 1
    for outcome, expected in {"acquired": 1, "refused": 1, "released": 0, "lost": 1}.items():
        assert value(metrics, "hope:session_leases_total", outcome=outcome) == expected
    assert value(metrics, "hope:session_leases_held") == 0


def test_fall_backs_are_counted_from_nought(metrics: Metrics) -> None:
    metrics.declare_operations(["memory_step", "choose_tokens"])
    metrics.on_kernel_fallback("memory_step", RuntimeError("no compiler"))
    assert value(metrics, "hope:kernel_fallbacks_total", operation="memory_step") == 1
    assert value(metrics, "hope:kernel_fallbacks_total", operation="choose_tokens") == 0


def test_connections_are_read_from_the_http_server(metrics: Metrics) -> None:
    metrics.watch_connections(lambda: Connections(open=7, most=100))
    assert value(metrics, "hope:http_connections") == 7
    assert value(metrics, "hope:http_connections_max") == 100


def test_momentary_numbers_come_from_the_engine(metrics: Metrics) -> None:
    stats = EngineStats(running=3, waiting=2, max_waiting=9, slots=8, slots_used=5, resident_idle=2)
    metrics.watch(lambda: stats)
    assert value(metrics, "hope:num_requests_running") == 3
    assert value(metrics, "hope:num_requests_waiting") == 2
    assert value(metrics, "hope:num_requests_waiting_max") == 9
    assert value(metrics, "hope:sessions", residency="idle") == 2


def test_the_hosts_memory_is_told_of_by_the_engine(metrics: Metrics) -> None:
    stats = EngineStats(host_rows=1, host_bytes=2, host_hits=3, host_misses=4, host_evictions=5)
    metrics.watch(lambda: stats)
    assert value(metrics, "hope:sessions", residency="host") == 1
    assert value(metrics, "hope:host_state_bytes") == 2
    assert value(metrics, "hope:host_state_lookups_total", result="hit") == 3
    assert value(metrics, "hope:host_state_lookups_total", result="miss") == 4
    assert value(metrics, "hope:host_state_evictions_total") == 5


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), min_size=1, max_size=60),
)
def test_a_window_is_the_last_reports_to_within_a_grain(limit: int, reports: list[tuple[int, int]]) -> None:
    window = FrequencyWindow(limit)
    for tokens, writes in reports:
        found = window.add(tokens, writes)
    grain = limit // FrequencyWindow.GRAINS
    ends = range(len(reports))
    tails = [(sum(t for t, _ in reports[start:]), sum(w for _, w in reports[start:])) for start in ends]
    total = tails[0][0]
    fitting = [
        writes / tokens
        for index, (tokens, writes) in enumerate(tails)
        if tokens >= min(limit, total) and tokens - reports[index][0] < limit + grain
    ]
    assert any(found == pytest.approx(frequency) for frequency in fitting)


def test_a_long_window_of_single_tokens_stays_small() -> None:
    window = FrequencyWindow(65536)
    for token in range(1, 200_001):
        frequency = window.add(1, int(token % 64 == 0))
    assert len(window._reports) <= FrequencyWindow.GRAINS + 1
    assert frequency == pytest.approx(1 / 64, rel=0.001)


def test_a_kernel_that_does_not_compile_is_counted_once_whenever_it_failed(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])
    names = ("early", "late")
    early, late = (dispatch.Dispatch(name, magnitude, "unused:fused", serves) for name in names)
    for op in (early, late):
        monkeypatch.setattr(op, "fused", lambda: broken_kernel)
    early(torch.ones(1))
    dispatch.observe_fallbacks(metrics.on_kernel_fallback)
    for _ in range(3):
        assert late(-torch.ones(1)).tolist() == [1.0]
        early(torch.ones(1))
    for name in names:
        assert value(metrics, "hope:kernel_fallbacks_total", operation=name) == 1
