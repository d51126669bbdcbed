"""Spans of requests: OpenTelemetry's names, the caller's trace, and nothing that anybody said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from hope_server.api.runtime import Runtime
from hope_server.otel import OtelTracing

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
CHAT = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 4, "seed": 7}


@pytest.fixture
def exporter(runtime: Runtime) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    runtime.tracing = OtelTracing(provider)
    return exporter


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter, session: str, stream: bool
) -> None:
    exporter.clear()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "r-1"}
    body = {**CHAT, "session_id": session, "stream": stream}
    assert (await http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    turn, request = exporter.get_finished_spans()
    assert (request.name, request.kind) == ("POST /v1/chat/completions", SpanKind.SERVER)
    assert request.parent is not None
    assert (f"{request.parent.span_id:x}", f"{request.parent.trace_id:032x}") == (PARENT, TRACE)
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "hope.request_id": "r-1",
    }
    assert turn.name == "chat hope-test"
    assert turn.parent == request.context
    found = attributes(turn)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "hope",
        "gen_ai.request.model": "hope-test",
        "gen_ai.response.model": "hope-test",
        "gen_ai.conversation.id": session,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.seed": 7,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert expected.items() <= found.items()
    assert found["gen_ai.usage.input_tokens"] > 0
    assert "secret" not in turn.to_json() + request.to_json()


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/completions", {"prompt": "a"}, "text_completion"),
        ("/v1/responses", {"input": "a", "store": False}, "chat"),
    ],
)
async def test_each_endpoint_that_generates(
    http: httpx.AsyncClient,
    exporter: InMemorySpanExporter,
    path: str,
    body: dict[str, Any],
    operation: str,
) -> None:
    assert (await http.post(path, json=body)).status_code == 200
    turn, request = exporter.get_finished_spans()
    assert attributes(turn)["gen_ai.operation.name"] == operation
    assert attributes(request)["http.route"] == path


async def test_each_choice_is_a_turn_of_its_own(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    assert (await http.post("/v1/completions", json={"prompt": "a", "n": 3})).status_code == 200
    *turns, request = exporter.get_finished_spans()
    assert [turn.parent for turn in turns] == [request.context] * 3


async def test_the_engine_gets_the_turns_span(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter, engine: ScriptedEngine
) -> None:
    await http.post("/v1/completions", json={"prompt": "a"})
    (asked,) = engine.requests
    asked.span.child("a part").end()
    turn, _, part = exporter.get_finished_spans()
    assert part.parent == turn.context


async def test_a_refusal_is_the_callers_not_an_error(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await http.get("/v1/sessions/a-secret-name")
    await http.get("/a-secret-path")
    one, other = exporter.get_finished_spans()
    assert (one.name, other.name) == ("GET /v1/sessions/{session_id}", "GET (no route)")
    assert one.status.is_unset
    assert "error.type" not in attributes(one)
    assert "secret" not in one.to_json() + other.to_json()


async def test_a_turn_that_fails_names_its_code(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter, runtime: Runtime
) -> None:
    runtime.stopping = True
    await http.post("/v1/completions", json={"prompt": "a"})
    turn, request = exporter.get_finished_spans()
    assert attributes(turn)["error.type"] == "shutting_down"
    assert attributes(request)["error.type"] == "503"
    assert not turn.status.is_ok


async def test_a_bad_traceparent_begins_a_trace(
    http: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await http.get("/health", headers={"traceparent": "00-zz-1-01"})
    (request,) = exporter.get_finished_spans()
    assert request.parent is None
