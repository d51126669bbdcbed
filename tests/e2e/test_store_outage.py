"""A Redis that goes away or starts to evict while the server runs."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from hope_client import Client
from hope_server.sessions.binary import find_binary

Journal = Callable[[Client, str], list[int]]


class Valkey:
    """An operator's own server: stops and comes back on one port with its data."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        self._process = subprocess.Popen(
            [str(find_binary()), *options, "--appendfsync", "always"],
            cwd=self._directory,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert any(b"Ready to accept connections" in line for line in self._process.stdout)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path)
    valkey.start()
    yield valkey
    valkey.kill()


TURN: dict[str, Any] = {"prompt": [120] * 300, "max_tokens": 4, "seed": 1, "ignore_eos": True}


def test_an_outage_is_an_error_and_costs_no_session(
    start_server: Any, valkey: Valkey, journal: Journal
) -> None:
    server = start_server("--redis-url", valkey.url)
    with server.client() as client:
        session, twin = (client.sessions.create().id for _ in range(2))
        first = [client.completions(**TURN, session_id=one).choices for one in (session, twin)]
        before = journal(client, session)
        valkey.kill()
        requests: list[tuple[str, str, object]] = [
            ("POST", "/v1/completions", {**TURN, "session_id": session}),
            ("POST", "/v1/sessions", {}),
            ("GET", f"/v1/sessions/{session}", None),
            ("GET", "/ready", None),
        ]
        with ThreadPoolExecutor(len(requests)) as pool:  # each waits a while for the store to come back
            answers = list(pool.map(lambda request: _send(server.url, *request), requests))
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"]
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        valkey.start()
        assert journal(client, session) == before
        second = [client.completions(**TURN, session_id=one).choices for one in (session, twin)]
        assert (first[0], second[0]) == (first[1], second[1])
        assert journal(client, session) == journal(client, twin)
    assert server.stop() == 0


def _send(url: str, method: str, path: str, body: object) -> httpx.Response:
    return httpx.request(method, f"{url}{path}", json=body, timeout=60)


def test_a_policy_that_is_changed_later_makes_the_server_not_ready(start_server: Any, valkey: Valkey) -> None:
    server = start_server("--redis-url", valkey.url)
    assert httpx.get(f"{server.url}/ready", timeout=60).json()["status"] == "ready"
    with Redis(port=valkey.port) as operator:
        operator.config_set("maxmemory-policy", "allkeys-lru")
        answer = httpx.get(f"{server.url}/ready", timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_config_error")
        assert "noeviction" in server.log()
        operator.config_set("maxmemory-policy", "noeviction")
    assert httpx.get(f"{server.url}/ready", timeout=60).status_code == 200
