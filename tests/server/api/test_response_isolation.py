"""Another tenant's responses and conversations are none, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hope_server.tenants.key_file import KeyFile

NOBODY = f"{'0' * 32}"


def requests(session: str, stamp: str) -> Iterator[tuple[str, str, Any]]:
    """Every request that can name a response or a conversation of a session."""
    response, conversation = f"resp_{session}_{stamp}", f"conv_{session}"
    items = {"items": [{"role": "user", "content": "x"}]}
    for stream in (False, True):
        yield "POST", "/v1/responses", {"input": "a", "previous_response_id": response, "stream": stream}
        yield "POST", "/v1/responses", {"input": "a", "conversation": conversation, "stream": stream}
    yield "POST", "/v1/responses", {"input": "a", "previous_response_id": response, "store": False}
    for method, path, body in (
        ("GET", f"responses/{response}", None),
        ("GET", f"responses/{response}/input_items", None),
        ("GET", f"conversations/{conversation}", None),
        ("GET", f"conversations/{conversation}/items", None),
        ("GET", f"conversations/{conversation}/items/msg_1", None),
        ("POST", f"conversations/{conversation}", {"metadata": {}}),
        ("POST", f"conversations/{conversation}/items", items),
        ("DELETE", f"conversations/{conversation}/items/msg_1", None),
        ("DELETE", f"responses/{response}", None),
        ("DELETE", f"conversations/{conversation}", None),
    ):
        yield method, f"/v1/{path}", body


@pytest.fixture
def headers(keys: KeyFile) -> list[dict[str, str]]:
    named = [keys.create(name)[1] for name in ("acme", "other")]
    return [{"Authorization": f"Bearer {key}", "X-Request-ID": "same"} for key in named]


async def test_a_foreign_one_is_answered_as_none(
    http: httpx.AsyncClient, headers: list[dict[str, str]]
) -> None:
    owner, stranger = headers
    conversation = (await http.post("/v1/conversations", headers=owner)).json()["id"]
    body = {"input": "a secret", "conversation": conversation}
    response = (await http.post("/v1/responses", json=body, headers=owner)).json()["id"]
    session, stamp = response.removeprefix("resp_").split("_")
    asked = 0
    pairs = zip(requests(session, stamp), requests(NOBODY, stamp), strict=True)
    for (method, path, body), (_, other_path, other) in pairs:
        foreign = await http.request(method, path, json=body, headers=stranger)
        unknown = await http.request(method, other_path, json=other, headers=stranger)
        assert foreign.status_code == 404, (method, path, foreign.text)
        assert foreign.content == unknown.content
        asked += 1
    assert asked == 15
    assert (await http.get(f"/v1/responses/{response}", headers=owner)).is_success
    listed = (await http.get(f"/v1/conversations/{conversation}/items", headers=owner)).json()
    assert len(listed["data"]) == 2
