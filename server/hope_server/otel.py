"""Spans through OpenTelemetry; imported only when tracing is asked for.

The standard variables say where they go and how many: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_PROPAGATORS, OTEL_SDK_DISABLED.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context

from hope_server.tracing import NONE, Attributes, Span

SERVICE = "hope-serve"


def provider_from_environment() -> TracerProvider:
    """Sends spans over OTLP (HTTP), in batches, from a thread of its own.

    Raises ImportError without the exporter's package.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class OtelTracing:
    """Spans of one provider. It is nobody else's: no global of OpenTelemetry is set."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("hope_server")

    def request(self, headers: Mapping[str, str], attributes: Attributes) -> Span:
        span = self._tracer.start_span(
            "HTTP", context=extract(headers), kind=SpanKind.SERVER, attributes=dict(attributes)
        )
        return _Span(self._tracer, span)

    def close(self) -> None:
        self._provider.shutdown()


class _Span:
    def __init__(self, tracer: Tracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def trace_id(self) -> str:
        context = self._span.get_span_context()
        return format_trace_id(context.trace_id) if context.trace_flags.sampled else ""

    def child(self, name: str, attributes: Attributes = NONE) -> Span:
        parent = set_span_in_context(self._span)
        return _Span(self._tracer, self._tracer.start_span(name, context=parent, attributes=dict(attributes)))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def end(self, error: str = "") -> None:
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
