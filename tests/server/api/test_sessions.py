from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL = "/v1/sessions"


async def test_create_get_delete(http: httpx.AsyncClient) -> None:
    created = await http.post(URL)
    assert created.status_code == 200
    body = created.json()
    assert body["object"] == "session"
    assert body["model"] == "hope-test"
    assert (body["seq"], body["tokens"], body["name"]) == (0, 0, None)
    assert (await http.get(f"{URL}/{body['id']}")).json() == body
    deleted = await http.delete(f"{URL}/{body['id']}")
    assert deleted.json() == {"id": body["id"], "object": "session.deleted", "deleted": True}
    assert (await http.get(f"{URL}/{body['id']}")).json()["error"]["code"] == "session_not_found"


async def test_a_name(http: httpx.AsyncClient) -> None:
    assert (await http.post(URL, json={"name": "notes"})).json()["name"] == "notes"
    assert (await http.post(URL, json={"name": ""})).status_code == 400


async def test_another_name(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> None:
    head = (await engine.meta(session)).head
    renamed = await http.patch(f"{URL}/{session}", json={"name": "née"})
    assert renamed.json() == (await http.get(f"{URL}/{session}")).json()
    assert (renamed.json()["name"], (await engine.meta(session)).head) == ("née", head)
    for body in ({}, {"name": ""}, {"name": None}, {"name": "x" * 201}, {"name": 1}, {"title": "x"}):
        assert (await http.patch(f"{URL}/{session}", json=body)).status_code == 400, body
    assert (await http.patch(f"{URL}/{'0' * 32}", json={"name": "x"})).status_code == 404
    assert (await http.get(f"{URL}/{session}")).json()["name"] == "née"


async def test_pages(http: httpx.AsyncClient) -> None:
    made = [(await http.post(URL)).json()["id"] for _ in range(5)]
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await http.get(URL, params={"limit": 2, **after})).json()
        found += [session["id"] for session in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert sorted(found) == sorted(made)


async def test_levels(http: httpx.AsyncClient, session: str) -> None:
    await http.post("/v1/completions", json={"prompt": "ab", "max_tokens": 2, "session_id": session})
    answer = await http.get(f"{URL}/{session}/levels")
    phi, slow = answer.json()["levels"]
    assert phi.pop("name") == "phi"
    assert phi == {
        "period": 1,
        "tokens": 4,
        "writes": 4,
        "refused": 1,
        "frequency": 1.0,
        "drift_ratio": 0.5,
        "bytes": 1024,
    }
    assert slow["period"] is None
    assert slow["frequency"] == 0


async def test_the_journal(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> None:
    engine.says("€")
    await http.post("/v1/completions", json={"prompt": "a", "session_id": session})
    await http.post(f"{URL}/{session}/reset")
    body = (await http.get(f"{URL}/{session}/events", params={"after": 0})).json()
    assert body["head"] == 6
    assert [(e["seq"], e["kind"], e["text"], e["origin"]) for e in body["events"]] == [
        (1, "run", "a", "text"),
        (2, "step", "", "model"),
        (3, "step", "", "model"),
        (4, "step", "€", "model"),
        (5, "step", "", "model"),
        (6, "reset", None, "user"),
    ]
    assert body["events"][0]["token"] == 6 + ord("a")


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_of_the_journal_join_to_the_whole(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str, limit: int
) -> None:
    engine.says("ü€🙂")
    for _ in range(2):
        await http.post("/v1/completions", json={"prompt": "né🙂", "session_id": session})
    whole = (await http.get(f"{URL}/{session}/events")).json()
    assert "".join(event["text"] for event in whole["events"]) == "né🙂ü€🙂né🙂ü€🙂"
    paged: list[object] = []
    after = 0
    while after < whole["head"]:
        params = {"after": after, "limit": limit}
        page = (await http.get(f"{URL}/{session}/events", params=params)).json()["events"]
        assert len(page) <= limit
        paged += page
        after = page[-1]["seq"]
    assert paged == whole["events"]


async def test_a_page_beyond_the_head_is_empty(http: httpx.AsyncClient, session: str) -> None:
    await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "session_id": session})
    for after in (3, 1000, 2**53 - 1):
        page = (await http.get(f"{URL}/{session}/events", params={"after": after})).json()
        assert page == {"events": [], "head": 3}


@pytest.mark.parametrize("session_id", ["nobody", "..", "%ff", "a%2Fb", "x" * 65, "%00"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/reset"),
        ("POST", "/fork"),
        ("POST", "/verify"),
        ("GET", "/levels"),
        ("GET", "/events"),
    ],
)
async def test_an_unknown_session(http: httpx.AsyncClient, session_id: str, method: str, path: str) -> None:
    answer = await http.request(method, f"{URL}/{session_id}{path}")
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["code"] in (
        "session_not_found",
        "route_not_found",
        "method_not_allowed",
    )


async def test_a_turn_of_an_unknown_session(http: httpx.AsyncClient) -> None:
    for url, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        for headers in ({"X-Session-ID": "nobody"}, {"X-Session-ID": "no body"}, {"X-Session-ID": ""}):
            answer = await http.post(url, json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


async def test_header_and_body_must_agree(http: httpx.AsyncClient, session: str) -> None:
    body = {"prompt": "a", "session_id": session}
    differ = await http.post("/v1/completions", json=body, headers={"X-Session-ID": "other"})
    assert (differ.status_code, differ.json()["error"]["code"]) == (400, "session_id_mismatch")
    agree = await http.post("/v1/completions", json=body, headers={"X-Session-ID": session})
    assert agree.status_code == 200


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=100000", "after=1e9", f"after={10**30}"]
)
async def test_bad_paging_is_refused(http: httpx.AsyncClient, session: str, query: str) -> None:
    answer = await http.get(f"{URL}/{session}/events?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]
    assert answer.json()["error"]["type"] == "invalid_request_error"
