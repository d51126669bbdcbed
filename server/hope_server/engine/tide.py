"""When sessions commit: all of them at once, and not more often than pays."""

import asyncio


class Tide:
    """Whoever has tokens to commit waits here for the next moment at which all do. That is at once where the
    last one is long enough ago: only where steps are faster than that do tokens gather.

    A commit costs about the same whether it holds one token or ten, and commits that go together share a
    write, a sync of the disk and the replies' way back. What they cost is taken from the engine's cores.

    Args:
        interval_s: the shortest time from one such moment to the next.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s: float | None = None
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._called = False  # the next moment is set

    async def wait(self, session: str) -> None:
        """Returns at the next moment, or when ``session`` is hastened."""
        loop = asyncio.get_running_loop()
        if not self._called:
            self._called = True
            due_s = None if self._last_s is None else self._last_s + self._interval_s
            if due_s is None or due_s <= loop.time():
                loop.call_soon(self._turn)
            else:
                loop.call_at(due_s, self._turn)
        waiting = self._waiting[session] = loop.create_future()
        try:
            await waiting
        finally:
            if self._waiting.get(session) is waiting:  # cancelled
                del self._waiting[session]

    def holds(self, session: str) -> bool:
        """Whether it waits here; from any thread."""
        return session in self._waiting

    def hasten(self, session: str) -> None:
        """Something has come up that does not wait."""
        if (waiting := self._waiting.pop(session, None)) is not None:
            _wake(waiting)

    def _turn(self) -> None:
        self._called = False
        waiting, self._waiting = self._waiting, {}
        if waiting:
            self._last_s = asyncio.get_running_loop().time()
        for each in waiting.values():
            _wake(each)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # cancelled in this turn of the loop
        waiting.set_result(None)
