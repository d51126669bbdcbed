"""Sessions that are verified at the same moment do not meet in one slot."""

import asyncio
from typing import Any
from unittest.mock import patch

from tests.server.engine.conftest import BLOCK

from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import SessionMeta

Bench = Any


async def test_sessions_verified_at_once_are_verified_each(bench: Bench) -> None:
    service = await bench.service()
    sessions = [(await service.create_session("tenant")).key for _ in range(3)]
    for number, session in enumerate(sessions):
        await bench.turn(service, session, (number,) * (BLOCK + number), max_tokens=3)
    alone = [await service.verify_session(session) for session in sessions]
    meta = bench.store.meta

    async def after_others(session: SessionKey) -> SessionMeta:
        await asyncio.sleep(0)
        found: SessionMeta = await meta(session)
        return found

    with patch.object(bench.store, "meta", after_others):
        async with asyncio.timeout(10):
            together = await asyncio.gather(*map(service.verify_session, sessions))
    assert together == alone
    assert len({found.replayed_sha256 for found in together}) == len(sessions)
