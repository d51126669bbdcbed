"""OpenAI's client sends again what failed: nothing is learned twice, and nothing that was refused is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from hope_server.errors import InternalError, SessionBusy

if TYPE_CHECKING:
    from tests.server.api.conftest import ScriptedEngine

TEXT = "/v1/completions"


def attempt(number: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(number)}


class Loses(httpx.AsyncBaseTransport):
    """Carries every request to the server, and loses the first answers on the way back."""

    def __init__(self, times: int) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._times = times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if self._times:
            self._times -= 1
            await response.aread()
            await response.aclose()
            raise httpx.ReadError("the answer got lost", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_an_answer_that_got_lost_is_not_learned_again(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    assert (await http.post(TEXT, json=body, headers=attempt(0))).is_success
    for number in (1, 2):
        again = await http.post(TEXT, json=body, headers=attempt(number))
        error = again.json()["error"]
        assert (again.status_code, error["code"]) == (409, "already_learned")
        assert (error["first_seq"], error["last_seq"]) == (1, 5)
        assert again.headers["x-should-retry"] == "false"
    assert (await engine.meta(session)).seq == 5


async def test_the_end_of_learning_hides_no_turn(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    assert (await http.post(TEXT, json=body, headers=attempt(0))).is_success
    await engine.freeze(session, 2)
    again = await http.post(TEXT, json=body, headers=attempt(1))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_learned")


async def test_who_says_it_twice_is_heard_twice(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    for _ in range(3):
        assert (await http.post(TEXT, json=body, headers=attempt(0))).is_success
    assert (await engine.meta(session)).seq == 15


@pytest.mark.parametrize("change", [{"prompt": "ac"}, {"seed": 1}])
async def test_another_request_is_no_repetition(
    http: httpx.AsyncClient, session: str, change: dict[str, Any]
) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    await http.post(TEXT, json=body, headers=attempt(0))
    assert (await http.post(TEXT, json={**body, **change}, headers=attempt(1))).is_success


async def test_what_was_refused_for_a_while_is_taken_when_it_comes_again(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    """Though it says the same as the turn before."""
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    await http.post(TEXT, json=body, headers=attempt(0))
    engine.refusal = SessionBusy("in a turn")
    for number in (0, 1):
        assert (await http.post(TEXT, json=body, headers=attempt(number))).status_code == 409
    engine.refusal = None
    assert (await http.post(TEXT, json=body, headers=attempt(2))).is_success
    assert (await engine.meta(session)).seq == 10
    assert (await http.post(TEXT, json=body, headers=attempt(3))).status_code == 409


async def test_a_failure_that_may_have_been_learned_counts_as_learned(
    http: httpx.AsyncClient, engine: ScriptedEngine, session: str
) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    engine.failure = (1, InternalError("a bug"))
    assert (await http.post(TEXT, json=body, headers=attempt(0))).status_code == 500
    engine.failure = None
    assert (await http.post(TEXT, json=body, headers=attempt(1))).json()["error"]["code"] == "already_learned"
    assert (await engine.meta(session)).seq == 3


async def test_a_turn_or_a_reset_in_between_makes_it_new(http: httpx.AsyncClient, session: str) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    await http.post(TEXT, json=body, headers=attempt(0))
    await http.post(f"/v1/sessions/{session}/reset")
    assert (await http.post(TEXT, json=body, headers=attempt(1))).is_success


@pytest.mark.parametrize("count", ["", "x", "-1", "99999", "１"])
async def test_a_strange_count_is_none(http: httpx.AsyncClient, session: str, count: str) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "session_id": session}
    for _ in range(2):
        headers = {b"x-stainless-retry-count": count.encode()}
        assert (await http.post(TEXT, json=body, headers=headers)).is_success


async def test_openai_s_own_retries(port: int, engine: ScriptedEngine, session: str) -> None:
    """Its client as it is, over a network that loses the first answer."""
    network: Any = httpx.AsyncClient(transport=Loses(1))
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", http_client=network
    ) as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        of_session = {"X-Session-ID": session}
        with pytest.raises(openai.ConflictError) as refused:
            await client.chat.completions.create(
                model="hope-test", messages=messages, extra_headers=of_session
            )
        assert refused.value.code == "already_learned"
        head = (await engine.meta(session)).seq
        await client.chat.completions.create(
            model="hope-test", messages=[{"role": "user", "content": "yes?"}], extra_headers=of_session
        )
    assert len(engine.requests) == 2
    assert (await engine.meta(session)).seq > head


async def test_an_ephemeral_request_is_simply_answered_again(http: httpx.AsyncClient) -> None:
    for number in range(3):
        assert (await http.post(TEXT, json={"prompt": "ab"}, headers=attempt(number))).is_success
