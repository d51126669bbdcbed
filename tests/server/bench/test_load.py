"""The load generator against a server in memory that speaks plain OpenAI, and one with sessions."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from hope_server.bench.answer import Asking, Endpoint
from hope_server.bench.load import Load
from hope_server.bench.load_plan import LoadSettings, Span, plan
from hope_server.bench.load_report import report

SETTINGS = LoadSettings(
    requests=6,
    warm_up=2,
    rate=None,
    concurrency=3,
    turns=0,
    prompt_words=Span(4, 4),
    answer_tokens=Span(3, 3),
    seed=0,
)
Answer = Callable[[dict[str, Any]], httpx.Response]


class Server:
    """Remembers what was asked, and how many requests were open at once."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.in_flight = self.most = 0
        self.numbers = itertools.count(1)
        self.answer = answer or (lambda body: stream(body, "one", " two", " three"))

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.deleted.append(request.url.path.rpartition("/")[2])
            return httpx.Response(200, json={})
        if request.url.path == "/v1/sessions":
            return httpx.Response(201, json={"id": f"s{next(self.numbers)}"})
        body = json.loads(request.content)
        self.bodies.append({"path": request.url.path, **body})
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        return self.answer(body)


def stream(body: dict[str, Any], *pieces: str, end: str = "data: [DONE]\n\n") -> httpx.Response:
    chat = "messages" in body
    events: list[Any] = [
        {"choices": [{"delta": {"content": piece}} if chat else {"text": piece}]} for piece in ("", *pieces)
    ]
    events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
    text = "".join(f": beat\n\ndata: {json.dumps(event)}\n\n" for event in events)
    return httpx.Response(200, text=text + end, headers={"Content-Type": "text/event-stream"})


class Clock:
    """Moves on by what is slept, and a little with every look."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now_s += 1e-4
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


async def put(
    server: Server, settings: LoadSettings, endpoint: Endpoint = "completions", *, clock: Clock | None = None
) -> Load:
    clock = clock or Clock()
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://test") as client:
        asking = Asking(endpoint, "m", ignore_eos=True, temperature=0.5)
        load = Load(client, asking, settings, clock=clock, sleep=clock.sleep)
        await load.send(plan(settings))
        await load.sessions.delete_all()
    return load


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
async def test_every_planned_request_is_sent_once(endpoint: Endpoint) -> None:
    server = Server()
    load = await put(server, SETTINGS, endpoint)
    planned = plan(SETTINGS)
    field = "messages" if endpoint == "chat" else "prompt"
    asked = [body[field][0]["content"] if endpoint == "chat" else body[field] for body in server.bodies]
    assert Counter(asked) == Counter(request.prompt for request in planned)
    assert {body["max_tokens"] for body in server.bodies} == {3}
    assert sorted(body["seed"] for body in server.bodies) == sorted(request.seed for request in planned)
    assert all("session_id" not in body for body in server.bodies)
    for sample in load.samples:
        assert (sample.error, sample.prompt_tokens, sample.output_tokens) == (None, 5, 3)
        assert len(sample.text_s) == 3
        assert sample.sent_s < sample.text_s[0] <= sample.end_s


async def test_as_many_clients_as_told_wait_for_their_answers() -> None:
    server = Server()
    await put(server, SETTINGS)
    assert server.most == 3


async def test_at_a_rate_requests_are_sent_when_they_are_due() -> None:
    settings = replace(SETTINGS, rate=2.0)
    clock = Clock()
    load = await put(Server(), settings, clock=clock)
    due = [request.at_s for request in plan(settings)]
    first = min(load.samples, key=lambda sample: sample.index)
    start = first.due_s - (due[0] or 0.0)
    pairs = itertools.pairwise([0.0, *(at_s or 0.0 for at_s in due)])
    for sample in load.samples:
        assert sample.due_s - start == pytest.approx(due[sample.index])
        assert sample.sent_s >= sample.due_s
    assert clock.slept == pytest.approx([late - early for early, late in pairs], abs=0.1)


async def test_sessions_are_used_by_one_request_at_a_time_and_so_often_as_told() -> None:
    server = Server()
    await put(server, replace(SETTINGS, requests=10, turns=4))
    used = Counter(body["session_id"] for body in server.bodies)
    assert max(used.values()) == 4
    assert sum(used.values()) == 12
    assert sorted(server.deleted) == sorted(used)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda body: httpx.Response(429, json={"error": {"code": "queue_full"}}), "queue_full"),
        (lambda body: httpx.Response(502, text="<html>"), "http_502"),
        (lambda body: httpx.Response(400, json={"error": {"code": None}}), "http_400"),
        (lambda body: httpx.Response(400, json=[1]), "http_400"),
        (lambda body: stream(body, "one", end=""), "stream_cut"),
        (lambda body: httpx.Response(200, text="data: {\n\n"), "bad_stream"),
        (lambda body: httpx.Response(200, text="data: 7\n\n"), "bad_stream"),
        (lambda body: httpx.Response(200, text='data: {"usage": {"prompt_tokens": 1}}\n\n'), "bad_stream"),
        (
            lambda body: httpx.Response(200, text='data: {"error": {"code": "turn_timeout"}}\n\n'),
            "turn_timeout",
        ),
        (lambda body: httpx.Response(200, text='data: {"error": {}}\n\n'), "error_in_stream"),
    ],
)
async def test_what_goes_wrong_is_counted_by_its_code(answer: Answer, code: str) -> None:
    load = await put(Server(answer), SETTINGS)
    found = report(load.samples, warm_up=SETTINGS.warm_up)
    assert found["errors"] == {code: 6}
    assert found["requests"] == {"measured": 6, "warm_up": 2, "whole": 0}
    assert found["latency"]["ttft_s"] is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError("refused"), "connection_failed"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.RemoteProtocolError("cut"), "connection_lost"),
    ],
)
async def test_a_connection_that_fails_is_counted_too(error: httpx.HTTPError, code: str) -> None:
    def fail(body: dict[str, Any]) -> httpx.Response:
        raise error

    load = await put(Server(fail), SETTINGS)
    assert [sample.error for sample in load.samples] == [code] * 8


async def test_a_server_without_sessions_is_told_by_its_own_code() -> None:
    async def none(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {"code": "route_not_found"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(none), base_url="http://test") as client:
        load = Load(client, Asking("chat", "m", True, 1.0), replace(SETTINGS, turns=2))
        await load.send(plan(SETTINGS))
    assert {sample.error for sample in load.samples} == {"route_not_found"}
