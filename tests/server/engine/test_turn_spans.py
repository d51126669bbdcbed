"""What the parts of a turn's span are, and that there are none unless tracing is on."""

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hope_server.engine.request import GenerationRequest
from hope_server.errors import StoreUnavailable
from hope_server.otel import OtelTracing
from hope_server.tracing import NO_SPAN, NO_TRACING, Span, step

Bench = Any  # the fixture's class lives in conftest, which tests cannot import


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def span(exporter: InMemorySpanExporter) -> Span:
    """A request's."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracing(provider).request({}, {})


def parts(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The finished ones by name; no name twice."""
    found = exporter.get_finished_spans()
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found)
    return by_name


def figures(found: ReadableSpan) -> Mapping[str, object]:
    assert found.attributes is not None
    return found.attributes


async def test_a_turn_of_a_session(bench: Bench, span: Span, exporter: InMemorySpanExporter) -> None:
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    await bench.turn(service, session, (3, 1, 4), max_tokens=5, span=span)
    found = parts(exporter)
    assert list(found) == ["hope.admission", "hope.load", "hope.commit", "hope.prefill", "hope.decode"]
    assert figures(found["hope.commit"])["hope.tokens"] == 3
    assert figures(found["hope.prefill"])["hope.tokens"] == 3
    decode = figures(found["hope.decode"])
    assert decode["hope.tokens"] == 5
    assert 1 <= int(str(decode["hope.commits"])) <= 5
    assert {one.context.trace_id for one in found.values() if one.context} == {int(span.trace_id, 16)}
    ends = [one.end_time for one in found.values()]
    assert ends == sorted(ends, key=int)  # type: ignore[arg-type]


async def test_the_prompts_commit_is_not_one_of_the_answers(
    bench: Bench, span: Span, exporter: InMemorySpanExporter
) -> None:
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    await bench.turn(service, session, (3, 1), max_tokens=1, span=span)
    assert figures(parts(exporter)["hope.decode"])["hope.commits"] == 1


async def test_an_ephemeral_turn_neither_loads_nor_commits(
    bench: Bench, span: Span, exporter: InMemorySpanExporter
) -> None:
    await bench.turn(await bench.service(), None, (3, 1), max_tokens=2, span=span)
    found = parts(exporter)
    assert list(found) == ["hope.admission", "hope.prefill", "hope.decode"]
    assert figures(found["hope.decode"])["hope.commits"] == 0


async def test_a_turn_without_an_answer_only_reads(
    bench: Bench, span: Span, exporter: InMemorySpanExporter
) -> None:
    await bench.turn(await bench.service(), None, (3, 1), max_tokens=0, span=span)
    assert list(parts(exporter)) == ["hope.admission", "hope.prefill"]


async def test_an_error_is_its_code_and_nothing_more(
    bench: Bench, span: Span, exporter: InMemorySpanExporter
) -> None:
    service = await bench.service()
    session = (await service.create_session("tenant")).key
    bench.store.broken = lambda append: StoreUnavailable("a secret")
    with pytest.raises(StoreUnavailable):
        await bench.turn(service, session, (3, 1), span=span)
    commit = parts(exporter)["hope.commit"]
    assert figures(commit)["error.type"] == "store_unavailable"
    assert not commit.status.is_ok
    assert commit.events == ()
    assert "secret" not in commit.to_json()


def test_without_tracing_there_is_one_span_that_does_nothing() -> None:
    request = GenerationRequest("r", None, (), None)  # type: ignore[arg-type]
    assert request.span is NO_TRACING.request({}, {}) is NO_SPAN
    with step(NO_SPAN, "a part") as part:
        assert part is NO_SPAN
    assert part.child("another") is NO_SPAN
