"""The HTTP server: uvicorn with bounds and without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from hope_server.api.http_protocol import Limits, protocol
from hope_server.config import ServerConfig
from hope_server.gauges import Connections

BACKLOG = 1024
CLOSE_CONNECTIONS_S = 5


class HttpServer(uvicorn.Server):
    """uvicorn over an app. Its signal handlers would end the process by the signal itself: they are left out.

    `answering` is set once requests are accepted; `should_exit = True` ends it.
    """

    def __init__(self, config: ServerConfig, app: FastAPI) -> None:
        limits = Limits(
            head_s=config.head_timeout_s,
            body_s=config.body_timeout_s,
            write_s=config.write_timeout_s,
            connections=config.max_connections,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=round(config.keep_alive_s),
                timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
                h11_max_incomplete_event_size=config.max_header_bytes,
                backlog=BACKLOG,
                reset_contextvars=True,
            )
        )
        self.answering = asyncio.Event()
        self._most = config.max_connections

    def connections(self) -> Connections:
        """How many are open, and may be."""
        return Connections(len(self.server_state.connections), self._most)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()
