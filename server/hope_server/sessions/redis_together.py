"""Commands of one turn of the event loop go to the server in one write, and their replies come in one read.

A step of the engine ends with a commit of each of its sessions. Sent one by one, each takes a connection,
a system call and a wake-up of its own, and each of these may wait for the interpreter's lock.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis

MOST: Final = 64
"""Commands in one write: what comes first waits for the reply of what comes last."""

_Waiting = tuple[tuple[Any, ...], asyncio.Future[Any]]


class Together:
    """Sends commands by way of ``redis``, each exactly once."""

    def __init__(self, redis: Any) -> None:
        self._redis: Redis = redis
        self._waiting: list[_Waiting] = []
        self._writes: set[asyncio.Task[None]] = set()

    async def send(self, *command: Any) -> Any:
        """The reply; a failure keeps redis-py's own type. A connection is lost for all who shared it."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._write)
        self._waiting.append((command, reply))
        return await reply

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MOST):
            task = asyncio.ensure_future(self._answer(waiting[start : start + MOST]))
            self._writes.add(task)
            task.add_done_callback(self._writes.discard)

    async def _answer(self, waiting: Sequence[_Waiting]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for command, _ in waiting:
            pipeline.execute_command(*command)
        try:
            replies: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        except Exception as error:
            replies = [error] * len(waiting)
        for (_, future), reply in zip(waiting, replies, strict=True):
            if future.done():  # its caller has left
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
