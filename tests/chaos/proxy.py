"""The network between one worker and the store: a TCP proxy that delays, swallows, cuts and tears."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from random import Random
from typing import Literal

Direction = Literal["request", "reply"]
CHUNK_BYTES = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards between its port and ``target`` (of loopback) as long as nobody meddles."""

    def __init__(self, target: int, rng: Random) -> None:
        self._target, self._rng = target, rng
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._torn: set[Direction] = set()
        self._latency_s = 0.0
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def delay(self, latency_s: float, *, for_s: float) -> None:
        """Every chunk arrives later, both ways."""
        self._latency_s = latency_s
        try:
            await asyncio.sleep(for_s)
        finally:
            self._latency_s = 0.0

    async def swallow(self, *, for_s: float, lost: bool) -> None:
        """A black hole: nothing passes, no connection breaks. ``lost``: nor does what went in come out."""
        self._open.clear()
        try:
            await asyncio.sleep(for_s)
            if lost:
                self.reset()
        finally:
            self._open.set()

    def reset(self) -> None:
        """Every connection breaks at once, on both sides."""
        for pair in list(self._pairs):
            _break(pair)

    def tear(self, direction: Direction) -> None:
        """Of the next chunk of ``direction`` only a beginning arrives, then its connection breaks."""
        self._torn.add(direction)

    def mend(self) -> None:
        """Tears that met nothing are off."""
        self._torn.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, upstream_writer)
        self._pairs.add(pair)
        pumps = [
            asyncio.ensure_future(self._pump(reader, upstream_writer, pair, "request")),
            asyncio.ensure_future(self._pump(upstream_reader, writer, pair, "reply")),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._tasks.difference_update(pumps)
        self._pairs.discard(pair)
        for end in pair:
            end.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        direction: Direction,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                await self._open.wait()
                if direction in self._torn:
                    self._torn.discard(direction)
                    sink.write(data[: self._rng.randrange(len(data))])
                    await sink.drain()
                    _break(pair)
                    return
                sink.write(data)
                await sink.drain()


def _break(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    """Both ends see a reset; what was written before it may still arrive."""
    for end in pair:
        connection: socket.socket | None = end.get_extra_info("socket")
        if connection is not None and not end.is_closing():
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        end.close()
