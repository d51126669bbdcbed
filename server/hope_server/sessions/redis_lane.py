"""The commits' own way to a Redis server: one connection, on which nobody waits for another's reply.

A step of the engine ends with a commit of each of its sessions. What is sent in one turn of the event loop
goes in one write, and its replies come in one read, whatever is still in flight. It takes half of the loop's
time that redis-py takes, whose connections serve one caller at a time; and the loop's time is the engine's,
as there is one interpreter's lock for both.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hiredis import HiredisError, Reader, pack_command
from redis import exceptions as redis_errors
from redis.asyncio.connection import DefaultParser

from hope_server.sessions.redis_address import Address

MOST: Final = 64
"""Commands in one write, so that a connection that takes no more is noticed."""

KEPT_ALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Seconds, seconds and times, as redis-py has them: a network that drops idle connections is noticed before a
commit is lost in one. Names that a system does not know are left out.
"""
_NOT_YET: Final = object()
_Packed = tuple[bytes, asyncio.Future[Any]]
_Sent = tuple[asyncio.Future[Any], float]


class Lane:
    """Sends commands, each exactly once, in order; a failure has redis-py's own type.

    Args:
        address: of the server.
        timeout_s: the longest wait for a connection, and for one reply.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._waiting: deque[_Packed] = deque()
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._written = False  # there will be a write in this turn of the loop
        self._closed = False

    async def send(self, *command: Any) -> Any:
        """The reply. A caller who leaves changes nothing for the command. A connection that is lost is lost
        for all whose replies it owes. What cannot be packed is its own caller's error: replies are told apart
        by their order alone.
        """
        if self._closed:
            raise redis_errors.ConnectionError("the store is closed")
        packed = pack_command(command)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((packed, reply))
        if not self._written:
            self._written = True
            loop.call_soon(self._write)
        return await reply

    async def close(self) -> None:
        """Wait for the replies that are owed, which is bounded, and close the connection for good."""
        self._closed = True
        while self._waiting or (self._wire is not None and self._wire.owed):
            if self._connecting is not None:
                await asyncio.wait({self._connecting})
            elif self._wire is not None and self._wire.owed:
                await self._wire.settled()
            else:
                await asyncio.sleep(0)  # they are written in this turn of the loop
        if self._wire is not None:
            await self._wire.close()

    def _write(self) -> None:
        self._written = False
        wire = self._wire
        if wire is None or wire.lost:
            if self._waiting and self._connecting is None:
                self._connecting = asyncio.ensure_future(self._connect())
            return
        while self._waiting and not wire.full:
            count = min(MOST, len(self._waiting))
            wire.send([self._waiting.popleft() for _ in range(count)])

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._wire = await _open(self._address, self._timeout_s, self._write)
        except Exception as error:  # whatever it is, those who wait for it are told
            self._refuse(error)
        finally:
            self._connecting = None
        self._write()

    def _refuse(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, reply in waiting:
            _settle(reply, error)


class _Wire(asyncio.Protocol):
    """One connection; ``ready`` is called when it takes more, and when it is lost."""

    def __init__(self, timeout_s: float, ready: Callable[[], None]) -> None:
        self._timeout_s, self._ready = timeout_s, ready
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(replyError=DefaultParser.parse_error, notEnoughData=_NOT_YET)
        self._error: Exception = redis_errors.ConnectionError("the server closed the connection")
        self._watch: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._idle = asyncio.Event()
        self.owed: deque[_Sent] = deque()
        """Replies in the order in which they will come, and when their commands were sent."""
        self.full = self.lost = False

    def send(self, commands: list[_Packed]) -> None:
        """In one write."""
        now = self._loop.time()
        self.owed.extend((reply, now) for _, reply in commands)
        if self._watch is None:
            self._watch = self._loop.call_at(now + self._timeout_s, self._look)
        self._transport.write(b"".join([packed for packed, _ in commands]))

    def ask(self, *command: Any) -> Awaitable[Any]:
        """The reply to a command that goes alone."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self.lost:
            _settle(reply, self._error)
        else:
            self.send([(pack_command(command), reply)])
        return reply

    async def settled(self) -> None:
        """Wait until no reply is owed, whoever still waits for one."""
        self._idle.clear()
        await self._idle.wait()

    async def close(self) -> None:
        """No reply is owed, or none is wanted."""
        self._transport.abort()
        await self._gone

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            _keep_alive(connection)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            self._settle_owed()
        except HiredisError as error:
            self._abort(redis_errors.ConnectionError(f"a reply that is none: {error}"))
        if not self.owed:
            self._idle.set()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._ready()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._watch is not None:
            self._watch.cancel()
        for reply, _ in self.owed:
            _settle(reply, self._error)
        self.owed.clear()
        self._idle.set()
        self._gone.set_result(None)
        self._ready()

    def _settle_owed(self) -> None:
        while (found := self._reader.gets()) is not _NOT_YET:
            if not self.owed:
                self._abort(redis_errors.ConnectionError("a reply that nobody asked for"))
                return
            _settle(self.owed.popleft()[0], found)

    def _look(self) -> None:
        """Whether the oldest reply is overdue; else look again when it would be."""
        self._watch = None
        if self.owed:
            due = self.owed[0][1] + self._timeout_s
            if due <= self._loop.time():
                self._abort(redis_errors.TimeoutError("no reply in time"))
            else:
                self._watch = self._loop.call_at(due, self._look)

    def _abort(self, error: Exception) -> None:
        """Nothing that comes over this connection would be understood any more."""
        self._error = error
        self._transport.abort()


async def _open(address: Address, timeout_s: float, ready: Callable[[], None]) -> _Wire:
    """A connection whose user is known and whose database is chosen."""
    loop = asyncio.get_running_loop()

    def make() -> _Wire:
        return _Wire(timeout_s, ready)

    if address.path is not None:
        _, wire = await loop.create_unix_connection(make, address.path)
    else:
        _, wire = await loop.create_connection(make, address.host, address.port, ssl=address.tls())
    try:
        if address.credentials:
            await wire.ask("AUTH", *address.credentials)
        if address.database:
            await wire.ask("SELECT", address.database)
    except BaseException:
        await wire.close()
        raise
    return wire


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEPT_ALIVE:
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _settle(reply: asyncio.Future[Any], found: Any) -> None:
    if reply.done():  # its caller has left
        return
    if isinstance(found, Exception):
        reply.set_exception(found)
    else:
        reply.set_result(found)
