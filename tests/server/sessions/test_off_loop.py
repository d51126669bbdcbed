"""Large snapshots are hashed, sealed and opened on threads, so that other sessions' tokens do not wait."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.server.sessions.writing import Writer

from hope_server.sessions import redis_snapshots
from hope_server.sessions.key import SessionKey
from hope_server.sessions.store import SessionStore


async def test_no_snapshot_is_worked_on_in_the_event_loop(
    redis_store: SessionStore, session: SessionKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[threading.Thread]] = {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seen.setdefault(name, set()).add(threading.current_thread())
            return function(*arguments)

        return call

    for name in ("cut", "seal_chunk", "open_chunk", "join"):
        monkeypatch.setattr(redis_snapshots, name, watched(name, getattr(redis_snapshots, name)))
    writer = await Writer.create(redis_store, session)
    await writer.read(1, 2)
    await writer.snapshot(2, a=b"x" * 3_000_000)
    assert await writer.found() == (2, {"a": b"x" * 3_000_000})
    assert len(seen) == 4
    assert all(threading.main_thread() not in threads for threads in seen.values())
