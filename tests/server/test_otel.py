"""Tracing as a process does it: from the environment, over HTTP, and not at all unless asked."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from hope_server.errors import StartupError
from hope_server.otel import OtelTracing, provider_from_environment
from hope_server.serve import _open_tracing


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    received: list[tuple[str, bytes]] = []
    handler = type("Handler", (Collector,), {"received": received})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield received
        server.shutdown()
        thread.join()


def test_spans_go_where_the_environment_says(
    collector: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
    tracing = OtelTracing(provider_from_environment())
    tracing.request({}, {"http.request.method": "GET"}).end()
    tracing.close()
    ((path, body),) = collector
    assert path == "/v1/traces"
    for part in (b"hope-serve", b"deployment.environment.name", b"http.request.method"):
        assert part in body


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
def test_the_service_may_be_named(
    collector: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    name = "another" if variable == "OTEL_SERVICE_NAME" else "service.name=another"
    monkeypatch.setenv(variable, name)
    tracing = OtelTracing(provider_from_environment())
    tracing.request({}, {}).end()
    tracing.close()
    assert b"another" in collector[0][1]
    assert b"hope-serve" not in collector[0][1]


def test_a_trace_that_is_not_sampled_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracing = OtelTracing(provider_from_environment())
    span = tracing.request({}, {})
    assert span.trace_id == ""
    span.end()
    tracing.close()


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hope_server.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    with pytest.raises(StartupError, match="otel") as refused:
        _open_tracing()
    assert refused.value.param == "tracing"


def test_off_imports_nothing() -> None:
    code = "import sys, hope_server.app, hope_server.engine.turn_spans as _; "
    code += "print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
