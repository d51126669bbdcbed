"""What the log says of requests: their ids, their session, never what was said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from hope_server.errors import StoreUnavailable
from hope_server.logging import _add_ids, _Json


class Kept(logging.Handler):
    """Events as the server would write them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Json())
        self.addFilter(_add_ids)
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(json.loads(self.format(record)))


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    kept, ours = Kept(), logging.getLogger("hope")
    ours.addHandler(kept)
    ours.setLevel(logging.DEBUG)
    yield kept.events
    ours.removeHandler(kept)
    ours.setLevel(logging.NOTSET)


async def test_the_access_log_names_request_session_and_route(
    http: httpx.AsyncClient, log: list[dict[str, Any]]
) -> None:
    session = "0123456789abcdef" * 2
    headers = {"X-Request-ID": "r-7", "X-Session-ID": session}
    await http.post("/v1/completions", json={"prompt": "a secret"}, headers=headers)
    (event,) = log
    assert (event["request_id"], event["session_id"]) == ("r-7", session)
    assert (event["method"], event["route"], event["status"]) == ("POST", "/v1/completions", 404)
    assert event["duration_s"] > 0
    assert "secret" not in json.dumps(log)


async def test_no_session_stays_behind_for_the_next_request(
    http: httpx.AsyncClient, log: list[dict[str, Any]]
) -> None:
    await http.get("/v1/sessions/" + "0123456789abcdef" * 2)
    await http.get("/health")
    assert [event.get("session_id") is None for event in log] == [False, True]


async def test_an_error_of_the_servers_own_has_its_code(
    http: httpx.AsyncClient, runtime: Any, log: list[dict[str, Any]]
) -> None:
    async def down() -> None:
        raise StoreUnavailable("why")

    runtime.check_store = down
    await http.get("/ready")
    assert (log[0]["level"], log[0]["code"]) == ("warning", "store_unavailable")
