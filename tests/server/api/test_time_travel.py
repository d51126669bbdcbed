"""Fork, rollback and verify as HTTP shows them; tests/server/engine/test_time_travel.py has what they do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hope_server.tenants.key_file import KeyFile

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

URL, TEXT = "/v1/sessions", "/v1/completions"


@pytest.fixture
async def told(http: httpx.AsyncClient, engine: ScriptedEngine, session: str) -> str:
    """A session with ten numbers: two turns that read "ab" and write "cd" and an end."""
    engine.says("cd")
    for _ in range(2):
        await http.post(TEXT, json={"prompt": "ab", "session_id": session})
    return session


async def texts(http: httpx.AsyncClient, session: str) -> list[str | None]:
    events = (await http.get(f"{URL}/{session}/events")).json()["events"]
    return [event["text"] for event in events]


@pytest.mark.parametrize(("body", "seq", "name"), [({}, 10, None), ({"seq": 3, "name": "twin"}, 3, "twin")])
async def test_a_fork_holds_what_was_there_and_goes_its_own_way(
    http: httpx.AsyncClient, told: str, body: dict[str, Any], seq: int, name: str | None
) -> None:
    before = (await http.get(f"{URL}/{told}")).json()
    made = (await http.post(f"{URL}/{told}/fork", json=body)).json()
    assert made["id"] != told
    assert (made["seq"], made["tokens"], made["name"], made["model"]) == (seq, seq, name, "hope-test")
    assert await texts(http, made["id"]) == (await texts(http, told))[:seq]
    await http.post(TEXT, json={"prompt": "x", "session_id": made["id"]})
    assert (await http.get(f"{URL}/{told}")).json() == before


async def test_the_body_of_a_fork_may_be_missing(http: httpx.AsyncClient, told: str) -> None:
    assert (await http.post(f"{URL}/{told}/fork")).json()["seq"] == 10


async def test_a_rollback_and_its_undoing(http: httpx.AsyncClient, told: str) -> None:
    back = (await http.post(f"{URL}/{told}/rollback", json={"seq": 5})).json()
    assert (back["id"], back["seq"], back["tokens"]) == (told, 11, 5)
    events = (await http.get(f"{URL}/{told}/events", params={"after": 10})).json()["events"]
    assert [(event["seq"], event["kind"]) for event in events] == [(11, "rollback")]
    again = (await http.post(f"{URL}/{told}/rollback", json={"seq": 10})).json()
    assert (again["seq"], again["tokens"]) == (12, 10)


@pytest.mark.parametrize("action", ["fork", "rollback"])
@pytest.mark.parametrize("seq", [-1, 11, 2**53, "3", 1.5, True])
async def test_a_number_that_the_journal_does_not_have(
    http: httpx.AsyncClient, told: str, action: str, seq: object
) -> None:
    answer = await http.post(f"{URL}/{told}/{action}", json={"seq": seq})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seq")
    assert (await http.get(f"{URL}/{told}")).json()["seq"] == 10
    assert len((await http.get(URL)).json()["data"]) == 1


async def test_a_rollback_has_to_say_where(http: httpx.AsyncClient, told: str) -> None:
    error = (await http.post(f"{URL}/{told}/rollback")).json()["error"]
    assert (error["code"], error["param"]) == ("missing_field", "seq")


async def test_in_a_turn_a_session_forks_and_does_not_roll_back(
    http: httpx.AsyncClient, engine: ScriptedEngine, told: str
) -> None:
    engine.pause_at = 1
    turn = asyncio.create_task(http.post(TEXT, json={"prompt": "x", "session_id": told}))
    await engine.paused.wait()
    refused = await http.post(f"{URL}/{told}/rollback", json={"seq": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_busy")
    assert (await http.post(f"{URL}/{told}/fork", json={"seq": 10})).json()["seq"] == 10
    engine.resume.set()
    assert (await turn).status_code == 200


async def test_a_fork_counts_for_the_quota(http: httpx.AsyncClient, keys: KeyFile) -> None:
    acme = {"Authorization": f"Bearer {keys.create('acme')[1]}"}
    (keys.directory / "quotas.toml").write_text("[default]\nsessions = 2\n")
    session = (await http.post(URL, headers=acme)).json()["id"]
    assert (await http.post(f"{URL}/{session}/fork", headers=acme)).status_code == 200
    refused = await http.post(f"{URL}/{session}/fork", headers=acme)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "session_quota_exceeded")
    assert len((await http.get(URL, headers=acme)).json()["data"]) == 2


@pytest.mark.parametrize("equal", [True, False])
async def test_a_verification(
    http: httpx.AsyncClient, engine: ScriptedEngine, told: str, equal: bool
) -> None:
    engine.restored_sha256 = ("1" if equal else "2") * 64
    found = (await http.post(f"{URL}/{told}/verify")).json()
    head = (await engine.meta(told)).head.sha256
    assert (found["seq"], found["tokens"], found["head_sha256"], found["equal"]) == (10, 10, head, equal)
    assert (found["replayed_sha256"] == found["restored_sha256"]) == equal


async def test_a_verification_is_paid_for(
    http: httpx.AsyncClient, engine: ScriptedEngine, keys: KeyFile
) -> None:
    acme = {"Authorization": f"Bearer {keys.create('acme')[1]}"}
    (keys.directory / "quotas.toml").write_text("[default]\ntokens_per_minute = 20\n")
    session = (await http.post(URL, headers=acme)).json()["id"]
    await http.post(TEXT, json={"prompt": "a" * 8, "max_tokens": 4, "session_id": session}, headers=acme)
    assert (await http.post(f"{URL}/{session}/verify", headers=acme)).status_code == 200
    refused = await http.post(f"{URL}/{session}/verify", headers=acme)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "token_quota_exceeded")


@pytest.mark.parametrize(
    ("query", "points"), [("", (0, 10)), ("?from=3&to=5", (3, 5)), ("?from=5&to=0", (5, 0))]
)
async def test_a_difference(http: httpx.AsyncClient, told: str, query: str, points: tuple[int, int]) -> None:
    found = (await http.get(f"{URL}/{told}/diff{query}")).json()
    assert (found["from_seq"], found["to_seq"], found["to_tokens"]) == (*points, 10)
    level = {"name": "phi", "writes": 3, "norm": 2.0, "relative": None, "max_abs": 1.5, "cosine": None}
    assert found["levels"] == [level]


@pytest.mark.parametrize(
    ("query", "param"), [("from=11", "seq"), ("to=11", "seq"), ("from=-1", "from"), ("to=x", "to")]
)
async def test_a_difference_needs_numbers_of_the_journal(
    http: httpx.AsyncClient, told: str, query: str, param: str
) -> None:
    refused = await http.get(f"{URL}/{told}/diff?{query}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_a_difference_is_paid_for(http: httpx.AsyncClient, keys: KeyFile) -> None:
    acme = {"Authorization": f"Bearer {keys.create('acme')[1]}"}
    (keys.directory / "quotas.toml").write_text("[default]\ntokens_per_minute = 20\n")
    session = (await http.post(URL, headers=acme)).json()["id"]
    await http.post(TEXT, json={"prompt": "a" * 8, "max_tokens": 4, "session_id": session}, headers=acme)
    asked = f"{URL}/{session}/diff?from=5"
    assert (await http.get(asked, headers=acme)).status_code == 200
    refused = await http.get(asked, headers=acme)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "token_quota_exceeded")


@pytest.mark.parametrize(("method", "path"), [("POST", "verify"), ("GET", "diff")])
async def test_what_is_computed_for_a_client_ends_when_it_leaves(
    engine: ScriptedEngine, port: int, told: str, method: str, path: str
) -> None:
    engine.pause_at = 0
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {URL}/{told}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await engine.paused.wait()
    writer.close()
    await asyncio.wait_for(engine.closed.wait(), 10)


async def test_what_the_memory_is_worth(http: httpx.AsyncClient, told: str) -> None:
    body = (await http.get(f"{URL}/{told}/loss")).json()
    assert body == {
        "object": "session.loss",
        "from_seq": 2,
        "to_seq": 10,
        "tokens": 256,
        "with_memory": 1.5,
        "without_memory": None,
    }
    assert (await http.get(f"{URL}/{told}/loss", params={"tokens": 7})).json()["tokens"] == 7
    for tokens in (0, 513, "many"):
        assert (await http.get(f"{URL}/{told}/loss", params={"tokens": tokens})).status_code == 400


async def test_to_a_quota_it_is_a_turn_that_reads_twice(http: httpx.AsyncClient, keys: KeyFile) -> None:
    headers = {"Authorization": f"Bearer {keys.create('acme')[1]}"}
    (keys.directory / "quotas.toml").write_text("[tenants.acme]\ntokens_per_minute = 1000\n")
    session = (await http.post(URL, headers=headers)).json()["id"]
    asked = [
        await http.get(f"{URL}/{session}/loss", params={"tokens": 512}, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in asked] == [200, 429]
    assert asked[1].json()["error"]["code"] == "token_quota_exceeded"
