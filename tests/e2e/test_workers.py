"""Several servers on one store: sessions move between them, whoever is killed, stopped or frozen."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hope_client import APIStatusError, Client, HopeClientError
from hope_client.wire import Completion
from hope_server.sessions.binary import find_binary

Journal = Callable[[Client, str], list[int]]
StartWorker = Callable[[], Any]
TTL_S = 1.0
PATIENCE_S = 30.0


@pytest.fixture
def start_worker(tmp_path: Path, start_server: Any) -> Iterator[StartWorker]:
    """Starts servers on one Valkey that is nobody's child; they share the key file of one data directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(find_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    valkey = subprocess.Popen(
        [*command, "--appendonly", "yes", "--appendfsync", "always"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert valkey.stdout is not None
    assert any(b"Ready to accept connections" in line for line in valkey.stdout)
    url = f"redis://127.0.0.1:{port}"
    yield lambda: start_server("--redis-url", url, "--lease-ttl-s", str(TTL_S))
    valkey.kill()
    valkey.communicate()


def prompt(turn: int, length: int) -> list[int]:
    return [(13 * i + 31 * turn) % 8000 + 100 for i in range(length)]


def turn(client: Client, session: str, number: int, length: int, **options: Any) -> str:
    """The text of a sampled turn with a fixed seed: equal for equal next-token distributions."""
    asked = {"max_tokens": 30, "temperature": 1.0, "seed": number, "ignore_eos": True, **options}
    answer: Completion = client.completions(prompt(number, length), session_id=session, **asked)
    return answer.choices[0].text


def stream(client: Client, session: str, number: int, length: int) -> Iterator[str]:
    """The pieces of an answer that does not end by itself."""
    asked: Any = {"max_tokens": 8192, "temperature": 1.0, "seed": number, "ignore_eos": True}
    answer = client.completions(prompt(number, length), session_id=session, stream=True, **asked)
    return iter(answer.text())


def once_free(work: Callable[[], str]) -> str:
    """What ``work`` gives once no lease is in its way."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except APIStatusError as error:
            if error.code != "lease_held" or time.monotonic() > end:
                raise


def patient(server: Any) -> Client:
    return Client(base_url=server.url, timeout=300, max_retries=0)


def test_a_session_moves_between_workers_and_survives_a_kill(
    start_worker: StartWorker, journal: Journal
) -> None:
    first, second = start_worker(), start_worker()
    with patient(first) as one, patient(second) as two:
        session, twin = one.sessions.create().id, one.sessions.create().id
        for number, client in enumerate((one, two, one, two)):
            assert turn(client, session, number, 150) == turn(one, twin, number, 150)
        pieces = stream(one, session, 9, 200)
        seen = "".join(next(pieces) for _ in range(12))
        with pytest.raises(APIStatusError) as held:
            turn(two, session, 10, 5)
        assert (held.value.code, held.value.status) == ("lease_held", 409)
        assert held.value.retry_after_s is not None
        first.kill()
        with pytest.raises(HopeClientError):
            seen += "".join(pieces)
        text = once_free(lambda: turn(two, session, 11, 40))
        tokens = journal(two, session)
        before = 4 * 180 + 200
        said = two.sessions.events(session, after=before, limit=10_000).events[: -40 - 30]
        assert "".join(event.text or "" for event in said).startswith(seen)
        turn(two, twin, 9, 200, max_tokens=len(said))
        assert text == turn(two, twin, 11, 40)
        assert journal(two, twin) == tokens


def test_a_frozen_worker_is_fenced_when_it_wakes_and_hands_over_when_it_stops(
    start_worker: StartWorker, journal: Journal
) -> None:
    first, second = start_worker(), start_worker()
    with patient(first) as one, patient(second) as two:
        session = one.sessions.create().id
        pieces = stream(one, session, 0, 20)
        seen = "".join(next(pieces) for _ in range(5))
        first.process.send_signal(signal.SIGSTOP)
        text = once_free(lambda: turn(two, session, 1, 40))
        moved = journal(two, session)
        first.process.send_signal(signal.SIGCONT)
        with pytest.raises(HopeClientError):
            seen += "".join(pieces)
        assert journal(two, session) == moved
        events = two.sessions.events(session, after=20, limit=10_000).events
        said, answer = events[:-70], events[-30:]
        assert "".join(event.text or "" for event in said).startswith(seen)
        assert "".join(event.text or "" for event in answer) == text
        twin = two.sessions.create().id
        assert turn(two, twin, 0, 20, max_tokens=len(said)) == "".join(event.text or "" for event in said)
        assert turn(two, twin, 1, 40) == text
        assert turn(one, session, 2, 30) == turn(two, twin, 2, 30)
        assert first.stop() == 0
        assert turn(two, session, 3, 20) == turn(two, twin, 3, 20)
