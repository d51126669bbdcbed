"""Traffic, latency, errors, saturation: what a server of language models is watched by."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from hope_dashboards.board import Line, board, graph, number, quantiles, spread
from hope_dashboards.queries import gauge, mean, process, quantile, rate

SHARES = (0.5, 0.95, 0.99)
FAILED = 'finished_reason="error"'
ACTIVE = 'residency="active"'


def dashboard() -> Dashboard:
    """The service as its callers see it, and how much of it is used."""
    return board(
        "hope-service",
        "Hope: service",
        "Traffic, latency, errors and saturation of Hope servers.",
        {
            "Now": _now(),
            "Traffic": _traffic(),
            "Latency": _latency(),
            "Errors": _errors(),
            "Saturation": _saturation(),
        },
    )


def _now() -> list[Builder[Panel]]:
    failed = rate("request_success_total", where=FAILED)
    return [
        number(
            "Workers",
            f"sum({process('up')})",
            unit="none",
            about="Servers that can be scraped.",
            warn_below=1,
        ),
        number("Turns", rate("request_success_total"), unit="reqps", about="Turns that end, per second."),
        number(
            "Tokens",
            f"{rate('prompt_tokens_total')} + {rate('inter_token_latency_seconds_count')}",
            unit="none",
            about="Tokens read and generated, per second.",
        ),
        number(
            "First token, p95",
            quantile(0.95, "time_to_first_token_seconds"),
            unit="s",
            about="From a turn's arrival to its first committed token.",
            warn_from=5,
        ),
        number(
            "Turns that fail",
            f"({failed}) / ({rate('request_success_total')})",
            unit="percentunit",
            about="Of the turns that end, those that end with an error.",
            warn_from=0.02,
        ),
        number(
            "Slots at work",
            f"{gauge('sessions', where=ACTIVE)} / {gauge('slots')}",
            unit="percentunit",
            about="Slots on the device that a turn holds now.",
            warn_from=0.95,
        ),
    ]


def _traffic() -> list[Builder[Panel]]:
    return [
        graph(
            "Turns by how they end",
            Line(rate("request_success_total", by="finished_reason"), "{{finished_reason}}"),
            unit="reqps",
            about="stop and length are whole answers; abort: the client left; error: the answer was cut off.",
            stacked=True,
        ),
        graph(
            "Tokens",
            Line(rate("prompt_tokens_total"), "read"),
            Line(rate("inter_token_latency_seconds_count"), "generated"),
            unit="none",
            about="Tokens per second, over all sessions.",
        ),
        graph(
            "Tokens of a turn",
            Line(mean("request_prompt_tokens"), "read"),
            Line(mean("request_generation_tokens"), "generated"),
            unit="none",
            about="Means. What a session has read before is not read again.",
        ),
        graph(
            "Requests by route",
            Line(rate("http_requests_total", by="method, route"), "{{method}} {{route}}"),
            unit="reqps",
            about="All HTTP requests that reached the application.",
            width=16,
        ),
        graph(
            "Requests by status",
            Line(rate("http_requests_total", by="status"), "{{status}}"),
            unit="reqps",
            about="Status 0: the client left before there was an answer.",
            stacked=True,
        ),
    ]


def _latency() -> list[Builder[Panel]]:
    return [
        graph(
            "Time to first token",
            *quantiles("time_to_first_token_seconds", *SHARES),
            unit="s",
            about="From a turn's arrival to its first committed token: queue, restore, prompt, commit.",
        ),
        graph(
            "Time between tokens",
            *quantiles("inter_token_latency_seconds", *SHARES),
            unit="s",
            about="Between two tokens of one turn.",
        ),
        graph(
            "Length of a turn",
            *quantiles("e2e_request_latency_seconds", *SHARES),
            unit="s",
            about="From its arrival to its end.",
        ),
        graph(
            "Wait for a slot",
            *quantiles("request_queue_time_seconds", *SHARES),
            unit="s",
            about="Part of the time to first token; it grows when more turns come than slots become free.",
        ),
        graph(
            "Requests by route, p95",
            Line(quantile(0.95, "http_request_duration_seconds", by="route"), "{{route}}"),
            unit="s",
            about="From a request's head to the end of its answer; a stream's is as long as its turn.",
        ),
        spread(
            "Time to first token, all",
            rate("time_to_first_token_seconds_bucket", by="le"),
            unit="s",
            about="How the first tokens' times are distributed.",
        ),
    ]


def _errors() -> list[Builder[Panel]]:
    return [
        graph(
            "Errors by code",
            Line(rate("request_errors_total", by="code"), "{{code}}"),
            unit="reqps",
            about="Every error that was answered, by its stable code.",
            stacked=True,
        ),
        graph(
            "Not admitted, by reason",
            Line(rate("admission_rejections_total", by="reason"), "{{reason}}"),
            unit="reqps",
            about="Refused before any work: queues, quotas, a session in a turn, a stop.",
            stacked=True,
        ),
        graph(
            "Share of turns that fail",
            Line(
                f"({rate('request_success_total', by='instance', where=FAILED)})"
                f" / ({rate('request_success_total', by='instance')})",
                "{{instance}}",
            ),
            unit="percentunit",
            about="By worker.",
        ),
    ]


def _saturation() -> list[Builder[Panel]]:
    return [
        graph(
            "Slots",
            Line(gauge("sessions", by="residency"), "{{residency}}"),
            Line(gauge("slots"), "slots"),
            unit="none",
            about="Sessions on the device. Idle ones keep their slot until another needs it: full is normal, "
            "active at the limit is not.",
        ),
        graph(
            "Turns in the queue",
            Line(gauge("num_requests_waiting"), "waiting"),
            Line(gauge("num_requests_waiting_max"), "limit"),
            unit="none",
            about="Above the limit a turn is refused with queue_full.",
        ),
        graph(
            "Engine step",
            *quantiles("engine_step_seconds", *SHARES),
            unit="s",
            about="One step of the engine: a batch of decodes, a piece of a prompt, or both.",
        ),
        graph(
            "Tokens of a step",
            Line(mean("iteration_tokens_total"), "mean"),
            unit="none",
            about="How full the batches are.",
        ),
        graph(
            "Cores",
            Line(f"rate({process('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
            unit="none",
            about="Processor time used per second.",
        ),
        graph(
            "Memory",
            Line(process("process_resident_memory_bytes"), "{{instance}}"),
            unit="bytes",
            about="Resident, of the server; the embedded store's is not in it.",
        ),
        graph(
            "Connections",
            Line(gauge("http_connections", by="instance"), "{{instance}}"),
            Line(gauge("http_connections_max"), "limit"),
            unit="none",
            about="Above the limit a connection is refused with too_many_connections.",
        ),
        graph(
            "File descriptors",
            Line(f"{process('process_open_fds')} / {process('process_max_fds')}", "{{instance}}"),
            unit="percentunit",
            about="Open, of those that the process may open.",
        ),
        graph(
            "Kernels given up",
            Line(gauge("kernel_fallbacks_total", by="operation"), "{{operation}}"),
            unit="none",
            about="Since the start. Of a kernel that does not compile the plain form runs, and is slower.",
        ),
        graph(
            "Turns at work",
            Line(gauge("num_requests_running", by="instance"), "{{instance}}"),
            unit="none",
            about="By worker: how evenly sessions are spread.",
        ),
    ]
