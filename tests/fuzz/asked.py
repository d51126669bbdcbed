"""Parsers of what callers send, and what the client reads of an answer."""

from __future__ import annotations

import asyncio
from functools import cache

from fastapi import Request
from tests.fuzz.target import Target
from tests.server.api.templates import SMOLLM2, chatml

from hope_client import HopeClientError, wire
from hope_client._requests import completion
from hope_client._stream import ChunkReader
from hope_server.api.body import read_json
from hope_server.chat import JinjaFormat, LastToken, Message, learn
from hope_server.errors import ChatTemplateError, HopeError, InvalidRequest
from hope_server.sessions.key import SessionKey
from hope_server.sessions.memory_store import MemoryStore
from hope_server.tenants.api_key import KeyRing, new_key

ROLES = ("system", "user", "assistant", "tool", "user")
CHUNK = b'data: {"id":"c","created":1,"model":"m","choices":[{"text":"hi","finish_reason":null}]}\n\n'
END = b'data: {"id":"c","created":1,"model":"m","choices":[{"text":"","finish_reason":"stop"}]}\r\n\r\n'


def _body(data: bytes) -> object:
    """What each endpoint that takes a body reads in it; refused if none takes it."""
    found, refusals = [], []
    for model in (wire.CompletionRequest, wire.ChatCompletionRequest, wire.SessionFork):
        try:
            found.append(asyncio.run(_read(data, model)))
        except InvalidRequest as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


async def _read(data: bytes, model: type[wire.Request]) -> wire.Request:
    """The body arrives in two pieces."""
    pieces = [data[: len(data) // 2], data[len(data) // 2 :]]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    request = Request({"type": "http", "headers": headers, "method": "POST"}, receive)
    return await read_json(request, model, limit=1 << 20)


def _sse(data: bytes) -> object:
    """Cut into pieces of the size that its first byte names."""
    size = 1 + (data[0] if data else 0)
    reader = ChunkReader(completion([1], stream=True, answer=wire.Completion))
    found = [chunk for at in range(0, len(data), size) for chunk in reader.feed(data[at : at + size])]
    reader.finish()
    return found


@cache
def _chatml() -> JinjaFormat:
    return JinjaFormat(learn(SMOLLM2, bos_token=None, eos_token=None), chatml(), add_bos=False)


def _messages(data: bytes) -> object:
    """Lines: the first character chooses a role, the rest is said."""
    lines = data.decode(errors="replace").split("\n")
    messages = [Message(ROLES[ord(line[:1] or "a") % len(ROLES)], line[1:]) for line in lines]
    after = LastToken(ord(lines[0][:1] or "a") % 300, "model") if len(lines) % 2 else None
    return _chatml().render(messages, after=after)


def _template(data: bytes) -> object:
    return learn(data.decode(errors="replace"), bos_token="<s>", eos_token="</s>", cpu_s=2)


def _session_id(data: bytes) -> SessionKey:
    return SessionKey("tenant", data.decode(errors="replace"))


def _cursor(data: bytes) -> object:
    return asyncio.run(MemoryStore().list("tenant", after=data.decode(errors="replace"), limit=3))


RECORD, KEY = new_key("tenant", b"s" * 32, now=1)


def _api_key(data: bytes) -> object:
    """Whatever is presented, only the key itself is one."""
    presented = data.decode(errors="replace")
    caller = KeyRing([RECORD], b"s" * 32).caller(presented)
    assert (caller is not None) == (presented == KEY)
    return caller


TARGETS = (
    Target(
        "body",
        _body,
        (InvalidRequest,),
        (
            b'{"prompt": "once", "max_tokens": 3, "stop": ["a"], "stream": true, "session_id": "x"}',
            b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "seed": -1}',
            b'{"seq": 3, "name": "twin"}',
        ),
    ),
    Target(
        "sse", _sse, (HopeClientError,), (CHUNK + END + b"data: [DONE]\n\n", b"\xef\xbb\xbf: x\r" + CHUNK)
    ),
    Target(
        "chat", _messages, (InvalidRequest,), (b"system\nuhello\nahi\nuagain", "u\u00e9<|im_end|>".encode())
    ),
    Target("template", _template, (ChatTemplateError,), (SMOLLM2.encode(),), slow=True),
    Target("session-id", _session_id, (HopeError,), (b"0" * 32, b"a_b-C9")),
    Target("cursor", _cursor, (HopeError,), (b"%016x:abc" % 5, b"0" * 32)),
    Target("api-key", _api_key, (), (KEY.encode(),)),
)
