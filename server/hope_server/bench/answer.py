"""One streamed request to a server that speaks OpenAI's API, timed as a client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from hope_server.bench.load_plan import PlannedRequest

Endpoint = Literal["completions", "chat"]
PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(slots=True)
class Sample:
    """What came of one request.

    due_s: when it was to be sent, from which its latencies count: a client that is late itself hides
    nothing. sent_s, end_s: sent, and over. text_s: the moments at which a piece of text came. output_tokens:
    as the server counts them, or pieces where it does not. error: a code, None for a whole answer.
    """

    index: int
    due_s: float
    sent_s: float
    end_s: float = 0.0
    text_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


class StreamError(Exception):
    """An answer that is not whole; ``code`` counts it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Asking:
    """What all requests have in common. ignore_eos: answers have their full length (not an OpenAI option)."""

    endpoint: Endpoint
    model: str
    ignore_eos: bool
    temperature: float

    def body(self, request: PlannedRequest, session: str | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.answer_tokens,
            "temperature": self.temperature,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": request.prompt}]
        else:
            body["prompt"] = request.prompt
        if self.ignore_eos:
            body["ignore_eos"] = True
        if session is not None:
            body["session_id"] = session
        return body


async def ask(
    client: httpx.AsyncClient,
    asking: Asking,
    request: PlannedRequest,
    session: str | None,
    *,
    due_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Sample:
    """Send ``request`` and read its whole answer; what goes wrong is in the sample, nothing is raised."""
    sample = Sample(request.index, due_s, clock())
    try:
        body = asking.body(request, session)
        async with client.stream("POST", PATHS[asking.endpoint], json=body) as response:
            await check(response)
            await _read(response, sample, clock)
    except StreamError as error:
        sample.error = error.code
    except httpx.HTTPError as error:
        sample.error = code_of(error)
    sample.end_s = clock()
    return sample


async def check(response: httpx.Response) -> None:
    """Raises StreamError for an answer that is an error, with the code that it gives."""
    if response.is_success:
        return
    await response.aread()
    try:
        code = response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        code = None
    raise StreamError(code if isinstance(code, str) and code else f"http_{response.status_code}")


def code_of(error: httpx.HTTPError) -> str:
    """Of a request that got no answer, or not all of it."""
    if isinstance(error, httpx.ConnectError):
        return "connection_failed"
    return "timeout" if isinstance(error, httpx.TimeoutException) else "connection_lost"


async def _read(response: httpx.Response, sample: Sample, clock: Callable[[], float]) -> None:
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            sample.output_tokens = sample.output_tokens or len(sample.text_s)
            return
        _take(data, sample, clock())
    raise StreamError("stream_cut")


def _take(data: str, sample: Sample, now_s: float) -> None:
    try:
        event = json.loads(data)
        if "error" in event:
            raise StreamError(str(event["error"].get("code") or "error_in_stream"))
        for choice in event.get("choices", ()):
            if choice.get("text") or (choice.get("delta") or {}).get("content"):
                sample.text_s.append(now_s)
        if usage := event.get("usage"):
            sample.prompt_tokens = int(usage["prompt_tokens"])
            sample.output_tokens = int(usage["completion_tokens"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StreamError("bad_stream") from error
