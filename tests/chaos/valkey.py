"""The real store as a process of its own, which faults stop, kill and starve."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import closing
from pathlib import Path

from hope_server.sessions.binary import find_binary

START_TIMEOUT_S = 30.0
REWRITE_BYTES = "8mb"
"""The append-only file is rewritten from here on, so that faults meet rewrites too."""


class Valkey:
    """A server on a fixed port of loopback whose data outlive its deaths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The living process's."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Up to its first PONG. Raises TimeoutError."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        fsync = ["--appendfsync", "always", "--auto-aof-rewrite-min-size", REWRITE_BYTES]
        with (self.directory.parent / "valkey.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                find_binary(),
                *options,
                *fsync,
                cwd=self.directory,
                stdout=log,
                stderr=log,
                restore_signals=False,  # a file that may not grow is an error of write(), not a signal
            )
        async with asyncio.timeout(START_TIMEOUT_S):
            while await self.say("PING") != "+PONG":
                if not self.alive:
                    raise RuntimeError(f"Valkey ended with {self._process.returncode} at its start")
                await asyncio.sleep(0.01)

    async def say(self, *words: str) -> str:
        """The first line of the reply to one command; empty if there is none."""
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            with closing(writer):
                writer.write(request.encode())
                return (await reader.readline()).decode().strip()
        except OSError:
            return ""

    async def kill(self) -> None:
        """SIGKILL, if it lives."""
        if self._process is not None and self.alive:
            self._process.kill()
        await self.ended()

    async def ended(self) -> None:
        """Wait for its end."""
        if self._process is not None:
            await self._process.wait()

    def freeze(self) -> None:
        if self.alive:
            assert self._process is not None
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.alive:
            assert self._process is not None
            self._process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
