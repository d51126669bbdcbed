"""A session's chat, read back from its journal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from threading import get_ident
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.server.api.conftest import ByteTokenizer

from hope_server.api import messages as route
from hope_server.sessions.key import DEFAULT_TENANT, SessionKey
from hope_server.sessions.session import JournalRecord, Origin

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL, CHAT, TEXT = "/v1/sessions", "/v1/chat/completions", "/v1/completions"


async def say(http: httpx.AsyncClient, session: str, text: str, **more: Any) -> None:
    messages = [{"role": "user", "content": text}]
    answer = await http.post(CHAT, json={"messages": messages, "session_id": session, **more})
    assert answer.status_code == 200


async def read(http: httpx.AsyncClient, session: str, **params: int) -> list[tuple[str, str]]:
    body = (await http.get(f"{URL}/{session}/messages", params=params)).json()
    return [(message["role"], message["text"]) for message in body["data"]]


async def test_a_chat(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> None:
    engine.says("Hé 🙂")
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": "né?"}]
    await http.post(CHAT, json={"messages": messages, "session_id": session})
    await say(http, session, "again", max_tokens=2)
    body = (await http.get(f"{URL}/{session}/messages")).json()
    found = [(message["role"], message["text"], message["finished"]) for message in body["data"]]
    assert found == [
        ("system", "Be brief.", True),
        ("user", "né?", True),
        ("assistant", "Hé 🙂", True),
        ("user", "again", True),
        ("assistant", "H\N{REPLACEMENT CHARACTER}", False),
    ]
    assert not body["has_more"]
    spans = [(message["first_seq"], message["last_seq"]) for message in body["data"]]
    head = (await engine.meta(session)).seq
    assert spans[0][0] == 1
    assert spans[-1][1] == head
    assert all(first[1] + 1 == second[0] for first, second in pairwise(spans))


async def test_a_turn_that_teaches_nothing_says_so(http: httpx.AsyncClient, session: str) -> None:
    await say(http, session, "one", learn="off")
    await say(http, session, "two")
    body = (await http.get(f"{URL}/{session}/messages")).json()
    assert [message["learn"] for message in body["data"]] == ["off", "off", "on", "on"]


async def test_plain_text_and_an_empty_session(http: httpx.AsyncClient, session: str) -> None:
    assert await read(http, session) == []
    await http.post(TEXT, json={"prompt": "Once", "session_id": session, "max_tokens": 0})
    await http.post(TEXT, json={"prompt": " upon", "session_id": session})
    assert await read(http, session) == [("text", "Once"), ("text", " upon"), ("assistant", "Hello there")]


async def test_a_long_message_is_decoded_beside_the_event_loop(
    http: httpx.AsyncClient, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    decode = ByteTokenizer.decode_bytes

    def watched(self: ByteTokenizer, tokens: Sequence[int]) -> bytes:
        threads.add(get_ident())
        return decode(self, tokens)

    monkeypatch.setattr(ByteTokenizer, "decode_bytes", watched)
    text = "né 🙂 " * 1000
    await http.post(TEXT, json={"prompt": text, "session_id": session, "max_tokens": 0})
    assert await read(http, session) == [("text", text)]
    assert get_ident() not in threads
    assert threads


async def test_what_a_template_writes_is_nobody_s(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    letters = ByteTokenizer().encode("<u>hi</u>")
    parts: list[tuple[Origin, list[int]]] = [("template", letters[:3]), ("user", letters[3:5])]
    parts += [("template", letters[5:]), ("model", [*ByteTokenizer().encode("yes"), ByteTokenizer.end_id])]
    seq, records = 0, []
    for origin, tokens in parts:
        records.append(JournalRecord(seq + 1, "run", origin, tuple(tokens), request="a" * 32))
        seq += len(tokens)
    await engine._append(SessionKey(DEFAULT_TENANT, session), records)
    assert await read(http, session) == [("user", "hi"), ("assistant", "yes")]


async def test_what_was_taken_back_is_left_out(http: httpx.AsyncClient, session: str) -> None:
    await say(http, session, "one")
    kept = (await http.get(f"{URL}/{session}")).json()["seq"]
    await say(http, session, "two")
    undone = (await http.get(f"{URL}/{session}")).json()["seq"]
    await http.post(f"{URL}/{session}/rollback", json={"seq": kept})
    await say(http, session, "three")
    asked = [text for role, text in await read(http, session) if role == "user"]
    assert asked == ["one", "three"]
    await http.post(f"{URL}/{session}/rollback", json={"seq": undone})
    asked = [text for role, text in await read(http, session) if role == "user"]
    assert asked == ["one", "two"]
    await http.post(f"{URL}/{session}/reset")
    assert await read(http, session) == []


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_join_to_the_whole(
    http: httpx.AsyncClient, session: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("one", "two", "three"):
        await say(http, session, text)
    whole = (await http.get(f"{URL}/{session}/messages")).json()["data"]
    assert len(whole) == 6
    monkeypatch.setattr(route, "MAX_PAGE_CHARS", 12)
    found: list[dict[str, Any]] = []
    more = True
    while more:
        after = found[-1]["last_seq"] if found else 0
        page = (await http.get(f"{URL}/{session}/messages", params={"after": after, "limit": limit})).json()
        assert 1 <= len(page["data"]) <= min(limit, 2)
        found, more = [*found, *page["data"]], page["has_more"]
    assert found == whole


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 1001}, {"after": -1}, {"after": "x"}])
async def test_bad_pages(http: httpx.AsyncClient, session: str, params: dict[str, Any]) -> None:
    assert (await http.get(f"{URL}/{session}/messages", params=params)).status_code == 400
