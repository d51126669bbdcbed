"""The way to a Redis server: bounded calls, typed errors, no command ever sent twice unasked."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from importlib import resources
from typing import Any, Final, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hope_server.errors import HopeError, SessionCorrupted, StoreUnavailable
from hope_server.sessions.redis_address import Address, check_url
from hope_server.sessions.redis_lane import Lane

logger = logging.getLogger(__name__)
T = TypeVar("T")
Send = Callable[..., Awaitable[Any]]

LOST: Final = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
"""The reply did not come: whether the command ran is unknown."""
REFUSED: Final = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


class Link:
    """Calls to one Redis server.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_s: The longest wait for one reply or one connection.
        patience_s: How long a lost connection is tried again before ``StoreUnavailable``.
        connections: Most calls in flight at once.
    """

    def __init__(self, url: str, *, timeout_s: float, patience_s: float, connections: int) -> None:
        check_url(url)
        self.patience_s = patience_s
        # The library's own retry would send a lost append again.
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=timeout_s, retry=Retry(NoBackoff(), 0), **options
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._lane = Lane(Address.of(url), timeout_s)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def load_functions(self) -> None:
        """Put this version's function library into the server, replacing an equal one."""
        source = resources.files(__package__).joinpath("hope_v1.lua").read_text(encoding="utf-8")
        await self._redis.execute_command("FUNCTION LOAD", "REPLACE", source)

    async def setting(self, name: str) -> str | None:
        """A setting of the server; None where it does not tell this user."""
        try:
            found = await self.send("CONFIG", "GET", name)
        except redis_errors.ResponseError:
            return None
        return found[1].decode() if len(found) == 2 else None

    async def send(self, *command: Any) -> Any:
        """One command, sent once; a failure keeps redis-py's own type."""
        return await self._redis.execute_command(*command)

    async def send_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Reads in one round trip; nothing binds them together."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute())

    async def function(self, name: str, keys: list[str], args: list[Any]) -> list[Any]:
        """Call ``hope_v1_<name>``; a server that lost the library gets it again."""
        return await self._call(self.send, name, keys, args)

    async def _call(self, send: Send, name: str, keys: list[str], args: list[Any]) -> list[Any]:
        call = ("FCALL", f"hope_v1_{name}", len(keys), *keys, *args)
        try:
            reply = await send(*call)
        except redis_errors.ResponseError as error:
            if "Function not found" not in str(error):
                raise
            await self.load_functions()
            reply = await send(*call)
        return list(reply)

    async def ask(self, *command: Any) -> Any:
        """A command that may run twice: sent again if its reply is lost."""
        return await self.settled(lambda: self.send(*command))

    async def ask_function(self, name: str, keys: list[str], args: list[Any]) -> list[Any]:
        """A function that may run twice: called again if its reply is lost."""
        return await self.settled(lambda: self.function(name, keys, args))

    async def ask_quickly(self, name: str, keys: list[str], args: list[Any]) -> list[Any]:
        """As :meth:`ask_function`, by the lane: in one write with all that is asked so in this turn of the
        loop. It needs no task of its own: a caller who is cancelled leaves no reply half read.
        """
        return await self.typed(self.settled(lambda: self._call(self._lane.send, name, keys, args)))

    async def greet_quickly(self) -> None:
        """The lane reaches the server too: what stands in its way alone is found out at the start."""
        await self.settled(lambda: self._lane.send("PING"))

    async def settled(self, operation: Callable[[], Awaitable[T]]) -> T:
        """``operation``, begun again on a new connection as long as replies are lost and patience lasts."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self.patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return await operation()
            except LOST as error:
                if isinstance(error, REFUSED) or loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def owned(self, work: Coroutine[Any, Any, T]) -> T:
        """``work`` as a task of its own: a cancelled caller leaves no half-read reply on a connection.

        Errors of the server come out as this project's.
        """
        task = asyncio.ensure_future(self.typed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_unseen)
            raise

    async def typed(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``, with errors of the server as this project's."""
        try:
            return await work
        except (redis_errors.RedisError, OSError) as error:
            raise as_hope_error(error) from error

    async def close(self) -> None:
        """Wait for the calls in flight, which are bounded, then close every connection."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._lane.close()
        await self._redis.aclose(close_connection_pool=True)


def _log_unseen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("a store call whose caller had left failed: %s", error)


def as_hope_error(error: Exception) -> HopeError:
    """What a failure of the server means for a request."""
    if isinstance(error, redis_errors.OutOfMemoryError):
        return StoreUnavailable(
            "the session store is out of memory: its maxmemory is reached", retry_after_s=5.0
        )
    if isinstance(error, REFUSED):
        return StoreUnavailable("the session store refuses this server's user or password")
    if isinstance(error, LOST):
        return StoreUnavailable("the session store does not answer")
    message = str(error)
    if "equal or smaller than the target stream top item" in message:
        return SessionCorrupted("the journal holds entries above the session's head")
    if message.startswith("WRONGTYPE"):
        return SessionCorrupted("a key of the session has another type than expected")
    return StoreUnavailable(f"the session store refused a command: {message.split(' ', 1)[0][:32]}")
