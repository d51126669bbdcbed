"""What only a real connection shows: streaming, disconnects, limits, bytes that are not HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

from hope_server.api import linger

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", *lines, "", ""]
    ).encode()


async def exchange(port: int, *chunks: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read one answer; its status, headers and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for chunk in chunks:
        writer.write(chunk)
    first = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
    status, *lines = first.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(status.split()[1]), headers, body


def code(body: bytes) -> str:
    found: str = json.loads(body)["error"]["code"]
    return found


async def test_a_token_arrives_before_the_next_is_made(port: int, engine: ScriptedEngine) -> None:
    engine.pause_at = 3
    asked = {**CHAT, "stream": True}
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        client.stream("POST", "/v1/chat/completions", json=asked) as answer,
    ):
        lines = answer.aiter_lines()
        seen = ""
        while seen != "Hel":
            line = await anext(lines)
            if line:
                seen += json.loads(line.removeprefix("data: "))["choices"][0]["delta"]["content"]
        assert engine.paused.is_set()
        engine.resume.set()
        rest = [line async for line in lines]
    assert rest[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pause_at", [0, 4])
async def test_a_client_that_leaves_stops_its_turn(
    port: int, engine: ScriptedEngine, session: str, stream: bool, pause_at: int
) -> None:
    engine.pause_at = pause_at
    body = json.dumps({**CHAT, "stream": stream, "session_id": session}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head("/v1/chat/completions", f"Content-Length: {len(body)}") + body)
    await engine.paused.wait()
    writer.close()
    await engine.closed.wait()
    engine.pause_at = None
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(100):
            again = await client.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "next"}], "session_id": session},
            )
            if again.status_code != 409:
                break
        assert again.status_code == 200
    # What was generated before stays learned, and the transcript knows it.
    assert engine.read()[0] == (1 if pause_at else 3)
    assert (await engine.meta(session)).transcript.count == (4 if pause_at else 3)


async def test_a_client_that_leaves_while_it_sends_harms_nobody(port: int, engine: ScriptedEngine) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head("/v1/completions", "Content-Length: 1000") + b'{"prompt": "')
    await writer.drain()
    writer.close()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/health")).status_code == 200
    assert not engine.requests


async def test_an_announced_large_body_is_refused_unread(port: int) -> None:
    request = head("/v1/completions", "Content-Length: 999999999999", "Expect: 100-continue")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    writer.close()


async def test_a_chunked_large_body_is_refused_before_its_end(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, "LINGER_BYTES", 1 << 20)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    status, _, body = await exchange(
        port, head("/v1/completions", "Transfer-Encoding: chunked"), *[chunk] * 40
    )
    assert (status, code(body)) == (413, "body_too_large")


async def test_a_client_that_sends_a_large_body_reads_the_refusal(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.post("/v1/completions", json={"prompt": "x" * 3_000_000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        exact = '{"prompt": "' + "x" * 10000 + '"}'
        padded = exact + " " * (65536 - len(exact))
        headers = {"content-type": "application/json"}
        assert (await client.post("/v1/completions", content=padded, headers=headers)).status_code == 200
        assert (
            await client.post("/v1/completions", content=padded + " ", headers=headers)
        ).status_code == 413


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_bytes_that_are_not_http(port: int, garbage: bytes) -> None:
    status, headers, body = await exchange(port, garbage)
    assert (status, code(body)) == (400, "invalid_http")
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"


async def test_an_endless_head_is_refused(port: int) -> None:
    line = b"X-Padding: " + b"x" * 8000 + b"\r\n"
    status, _, body = await exchange(port, b"GET /health HTTP/1.1\r\nHost: a\r\n", *[line] * 9)
    assert (status, code(body)) == (431, "head_too_large")


async def test_odd_bytes_in_a_path_or_header_are_only_unknown(port: int) -> None:
    request = (
        b"GET /v1/sessions/%ff%00%0a HTTP/1.1\r\nHost: a\r\nX-Session-ID: \xff\r\nConnection: close\r\n\r\n"
    )
    status, _, body = await exchange(port, request)
    assert (status, code(body)) == (404, "session_not_found")


async def test_two_requests_on_one_connection(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            answer = await client.post("/v1/completions", json={"prompt": "a", "stream": True})
            assert answer.text.endswith("data: [DONE]\n\n")


async def until_closed(port: int, *chunks: bytes) -> bytes:
    """Send bytes and wait; all that came until the server closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for chunk in chunks:
        writer.write(chunk)
    try:
        return await reader.read()
    finally:
        writer.close()


HALF_A_BODY = head("/v1/completions", "Content-Length: 30") + b'{"prompt": "a'


@pytest.mark.settings(head_timeout_s=0.05, body_timeout_s=0.05)
@pytest.mark.parametrize("sent", [b"GET /hea", b"GET /health HTTP/1.1\r\nHost: a\r\n", HALF_A_BODY])
async def test_a_request_that_does_not_end_gets_408(port: int, engine: ScriptedEngine, sent: bytes) -> None:
    answer = await until_closed(port, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert code(answer.partition(b"\r\n\r\n")[2]) == "request_timeout"
    assert not engine.requests


@pytest.mark.settings(head_timeout_s=0.05)
async def test_a_connection_on_which_nothing_comes_is_closed(port: int) -> None:
    assert await until_closed(port) == b""


@pytest.mark.settings(head_timeout_s=0.05)
async def test_the_second_head_on_a_connection_has_a_deadline_too(port: int) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = await until_closed(port, whole, b"GET /health HT")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.settings(body_timeout_s=0.05)
async def test_a_body_that_nobody_reads_has_a_deadline(port: int) -> None:
    """The answer came before the body; the rest of the body must not hold the connection."""
    request = head("/v1/nowhere", "Content-Length: 1000")
    answer = await until_closed(port, request, b"x")
    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.settings(head_timeout_s=0.05, body_timeout_s=0.05)
async def test_deadlines_end_with_what_they_are_for(port: int, engine: ScriptedEngine) -> None:
    """A turn may take longer than its request may take to arrive: one that begins later is cut off first."""
    engine.pause_at = 1
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        asked = asyncio.create_task(client.post("/v1/completions", json={"prompt": "a"}))
        await engine.paused.wait()
        for _ in range(2):
            assert await until_closed(port) == b""
        engine.resume.set()
        assert (await asked).status_code == 200


@pytest.mark.settings(write_timeout_s=0.05, max_output_tokens=1_000_000)
async def test_a_client_that_takes_nothing_is_cut_off_and_its_turn_ends(
    port: int, engine: ScriptedEngine
) -> None:
    engine.answer = [70] * 1_000_000
    body = b'{"prompt": "a", "stream": true, "max_tokens": 1000000}'
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", port))
        client.sendall(head("/v1/completions", f"Content-Length: {len(body)}") + body)
        await engine.closed.wait()


@pytest.mark.settings(max_connections=2)
async def test_one_connection_too_many_is_refused(port: int) -> None:
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for _, writer in held:
        writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    for reader, _ in held:
        await reader.readuntil(b"\r\n\r\n")
    status, headers, body = await exchange(port)
    assert (status, code(body)) == (503, "too_many_connections")
    assert headers["retry-after"] == "1"
    held[0][1].write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    figures = await held[0][0].readuntil(b"hope:http_connections_max{")
    assert b'hope:http_connections{engine="0",model_name="hope-test"} 2.0' in figures
    held[0][1].close()
    await held[0][1].wait_closed()
    while (await exchange(port, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"))[0] != 200:
        pass
    held[1][1].close()


@pytest.mark.settings(turn_timeout_s=0.05)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_takes_too_long_ends(port: int, engine: ScriptedEngine, stream: bool) -> None:
    engine.pause_at = 2
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.post("/v1/completions", json={"prompt": "a", "stream": stream})
    assert engine.closed.is_set()
    assert answer.status_code == (200 if stream else 504)
    last = answer.text.strip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["code"] == "turn_timeout"
    assert "[DONE]" not in answer.text
