"""The turns that run, each in a task of its own: one of a session at a time, and nothing else beside it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from hope_server.engine.turn import Turn
from hope_server.errors import HopeError, SessionBusy
from hope_server.sessions.key import SessionKey


class Turns:
    """By the name of the session, as the engine knows it."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def get(self, name: str) -> Turn | None:
        """The session's turn, None without one."""
        return self._turns.get(name)

    def begin(self, name: str, turn: Turn, *, request_id: str) -> None:
        """Run ``turn``. Raises SessionBusy while another one of the session runs."""
        if name in self._turns:
            raise SessionBusy("the session is in the middle of another turn", param="session_id")
        self._turns[name] = turn
        task = asyncio.create_task(self._run(name, turn), name=f"hope-turn-{request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lock(self, name: str) -> asyncio.Lock:
        """Held by a turn as long as it runs, and by whoever needs the session to stand still."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    @asynccontextmanager
    async def none_of(self, session: SessionKey) -> AsyncIterator[None]:
        """No turn of the session runs, and none starts inside; raises SessionBusy."""
        if str(session) in self._turns:
            raise SessionBusy(f"session {session.session} is in the middle of a turn", param="session_id")
        async with self.lock(str(session)):
            yield

    async def wait(self, timeout_s: float) -> None:
        """Until none runs, at most so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, timeout_s))

    def cut(self, error: HopeError) -> None:
        """Stop all of them within one token; their readers get ``error``."""
        for turn in list(self._turns.values()):
            turn.cancel(error)

    def abandon(self) -> None:
        """End the tasks of those that did not stop."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, name: str, turn: Turn) -> None:
        try:
            async with self.lock(name):
                await turn.run()
        finally:
            del self._turns[name]
            turn.close()
