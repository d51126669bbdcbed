"""Retries: which failures are tried again, after what pause, and that no turn can be learned twice."""

import datetime as dt
from collections.abc import Callable
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import hope_client
from hope_client._failures import retry_after_s

if TYPE_CHECKING:
    from tests.clients.conftest import Flavour, Loopback

_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}],
}
_UNSENT: list[type[httpx.TransportError]] = [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout]
_SENT: list[type[httpx.TransportError]] = [
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.RemoteProtocolError,
    httpx.WriteError,
    httpx.WriteTimeout,
]

Use = Callable[[Any], Any]


def _in_session(client: Any) -> Any:
    return client.chat("hi", session_id="s1")


def _in_session_streamed(client: Any) -> Any:
    return client.chat("hi", session_id="s1", stream=True)


def _ephemeral(client: Any) -> Any:
    return client.chat("hi")


class _Fails:
    """A transport whose first `times` requests fail."""

    def __init__(self, failure: Callable[[], httpx.Response], times: int = 1) -> None:
        self.requests: list[httpx.Request] = []
        self._failure = failure
        self._times = times
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._failure() if len(self.requests) <= self._times else httpx.Response(200, json=_ANSWER)

    @property
    def keys(self) -> set[str]:
        return {request.headers["Idempotency-Key"] for request in self.requests}


def _raise(kind: type[httpx.TransportError]) -> Callable[[], httpx.Response]:
    def fail() -> httpx.Response:
        raise kind("it broke")

    return fail


def _error(status: int, code: str, **headers: str) -> Callable[[], httpx.Response]:
    body = {"error": {"message": "m", "type": "t", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(status, json=body, headers=named)


@pytest.mark.parametrize("use", [_in_session, _ephemeral])
@pytest.mark.parametrize(
    "failure",
    [
        *(_raise(kind) for kind in _UNSENT),
        _error(409, "session_busy"),
        _error(429, "queue_full"),
        _error(503, "store_unavailable"),
    ],
)
def test_what_the_server_cannot_have_begun_is_sent_again(
    flavour: "Flavour", use: Use, failure: Callable[[], httpx.Response]
) -> None:
    fails = _Fails(failure, times=2)
    answer = flavour.call(use, transport=fails.transport)
    assert answer.choices[0].message.content == "a"
    assert len(fails.requests) == 3
    assert len(fails.keys) == 1, "all attempts carry one key"


@pytest.mark.parametrize("use", [_in_session, _in_session_streamed])
@pytest.mark.parametrize(
    "failure",
    [
        *(_raise(kind) for kind in _SENT),
        _error(500, "internal_error"),
        _error(502, "bad_gateway"),
        _error(504, "gateway_timeout"),
        _error(408, "request_timeout"),
        _error(409, "sequence_conflict"),
        _error(409, "already_learned"),
        _error(409, "conversation_diverged"),
        _error(400, "invalid_request"),
        _error(404, "session_not_found"),
    ],
)
def test_a_turn_that_may_have_been_learned_is_not_sent_again(
    flavour: "Flavour", use: Use, failure: Callable[[], httpx.Response]
) -> None:
    fails = _Fails(failure)
    with pytest.raises(hope_client.HopeClientError):
        flavour.call(use, transport=fails.transport)
    assert len(fails.requests) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.sessions.create(),
        lambda client: client.sessions.reset("s1"),
        lambda client: client.sessions.delete("s1"),
    ],
    ids=["create", "reset", "delete"],
)
def test_a_change_of_sessions_is_not_repeated_blindly(flavour: "Flavour", use: Use) -> None:
    fails = _Fails(_raise(httpx.ReadError))
    with pytest.raises(hope_client.APIConnectionError):
        flavour.call(use, transport=fails.transport)
    assert len(fails.requests) == 1


@pytest.mark.parametrize(
    "failure", [*(_raise(kind) for kind in _SENT), _error(500, "x"), _error(502, "x"), _error(408, "x")]
)
def test_an_ephemeral_turn_is_sent_again_freely(
    flavour: "Flavour", failure: Callable[[], httpx.Response]
) -> None:
    fails = _Fails(failure)
    flavour.call(_ephemeral, transport=fails.transport)
    assert len(fails.requests) == 2


@pytest.mark.parametrize("use", [_in_session, _ephemeral])
@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "session_busy"), (503, "store_unavailable"), (429, "x"), (500, "x"), (408, "x")],
)
def test_what_the_server_says_of_a_retry_counts(flavour: "Flavour", use: Use, status: int, code: str) -> None:
    """It knows what it has done: `false` where a turn was begun, `true` after nothing, or under one key."""
    fails = _Fails(_error(status, code, X_Should_Retry="true"))
    flavour.call(use, transport=fails.transport)
    assert len(fails.requests) == 2
    fails = _Fails(_error(status, code, X_Should_Retry="false"))
    with pytest.raises(hope_client.APIStatusError) as refused:
        flavour.call(use, transport=fails.transport)
    assert (len(fails.requests), refused.value.should_retry) == (1, False)


def test_a_session_that_changes_hands_is_asked_again(flavour: "Flavour") -> None:
    fenced = _Fails(_error(409, "session_fenced", X_Should_Retry="true", Retry_After="1"), times=2)
    flavour.call(_in_session, transport=fenced.transport)
    assert (len(fenced.requests), len(fenced.keys), flavour.sleeps_s) == (3, 1, [1.0, 1.0])


def test_a_connection_that_the_server_drops(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.drop()
    loopback.json(_ANSWER)
    flavour.call(_ephemeral, loopback.url)
    loopback.drop()
    with pytest.raises(hope_client.APIConnectionError) as caught:
        flavour.call(_in_session, loopback.url)
    assert caught.value.sent
    assert len(loopback.seen) == 3


def test_a_server_that_does_not_answer_in_time(loopback: "Loopback", flavour: "Flavour") -> None:
    loopback.stream([b": here\n\n"], ending="hang")
    timeout = httpx.Timeout(5.0, read=0.2)
    with pytest.raises(hope_client.APITimeoutError):
        flavour.call(_in_session_streamed, loopback.url, timeout=timeout)
    assert loopback.hang_up.wait(10)


def test_retries_end(flavour: "Flavour") -> None:
    fails = _Fails(_error(503, "store_unavailable"), times=99)
    with pytest.raises(hope_client.UnavailableError):
        flavour.call(_in_session, transport=fails.transport, max_retries=4)
    assert len(fails.requests) == 5


def test_pauses_double_with_some_jitter_up_to_a_limit(flavour: "Flavour") -> None:
    fails = _Fails(_error(503, "store_unavailable"), times=99)
    with pytest.raises(hope_client.UnavailableError):
        flavour.call(_in_session, transport=fails.transport, max_retries=6)
    for slept_s, full_s in zip(flavour.sleeps_s, [0.5, 1, 2, 4, 8, 8], strict=True):
        assert 0.75 * full_s <= slept_s <= full_s


def test_the_server_s_pause_is_kept(flavour: "Flavour") -> None:
    fails = _Fails(_error(409, "session_busy", Retry_After="1.25"))
    flavour.call(_in_session, transport=fails.transport)
    assert flavour.sleeps_s == [1.25]


def test_the_server_s_pause_as_a_date_counts_from_the_given_clock(flavour: "Flavour") -> None:
    at = dt.datetime(2026, 1, 1, 0, 0, 30, tzinfo=dt.UTC)
    fails = _Fails(_error(503, "shutting_down", Retry_After=format_datetime(at, usegmt=True)))
    flavour.call(_in_session, transport=fails.transport, now_s=lambda: at.timestamp() - 7.0)
    assert flavour.sleeps_s == [7.0]


def test_a_pause_too_long_to_sit_out_is_the_caller_s_decision(flavour: "Flavour") -> None:
    fails = _Fails(_error(429, "queue_full", Retry_After="3600"))
    with pytest.raises(hope_client.RateLimitedError) as caught:
        flavour.call(_in_session, transport=fails.transport)
    assert caught.value.retry_after_s == 3600
    assert flavour.sleeps_s == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Thu, 99 Jan 1970 00:00:01 GMT", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert retry_after_s({"Retry-After": value}, now_s=10.0) == expected
