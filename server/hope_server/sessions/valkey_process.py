"""One run of a Valkey server as our child: started, ready, watched, ended."""

import asyncio
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hope_server.errors import StoreConfigError

_POLL_S = 0.01
_STOP_S = 10.0
_TALK_S = 2.0
_LOG_TAIL_BYTES = 2000
# The shell reads a pipe that only we hold: when we die, however we die, it ends the child.
_WATCHDOG = """
read _
kill -TERM "$1" 2>/dev/null || exit 0
n=0
while [ $n -lt 50 ] && kill -0 "$1" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -KILL "$1" 2>/dev/null
"""


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket and the password that the server behind it asks for."""

    socket: Path
    password: str

    async def talk(self, command: str) -> str:
        """The first line of the reply to ``command``; raises ``OSError`` if nobody answers."""
        first, _ = await self._ask(command)
        return first

    async def info(self) -> dict[str, str]:
        """The server's figures by name; raises ``OSError`` if there are none."""
        first, body = await self._ask("INFO")
        if not first.startswith("$"):
            raise OSError(f"expected the figures of Valkey, found {first[:100]!r}")
        pairs = (line.partition(":") for line in body.splitlines())
        return {name: value for name, colon, value in pairs if colon}

    async def _ask(self, command: str) -> tuple[str, str]:
        """The first line of the reply and, if it announces a text, that text."""
        async with asyncio.timeout(_TALK_S):
            reader, writer = await asyncio.open_unix_connection(str(self.socket))
            try:
                writer.write(f"AUTH {self.password}\r\n{command}\r\n".encode())
                await reader.readline()
                first = (await reader.readline()).decode(errors="replace").strip()
                size = int(first[1:]) if first.startswith("$") else 0
                return first, (await reader.readexactly(size)).decode(errors="replace")
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError("Valkey ended within a reply") from error
            finally:
                writer.close()


class ValkeyProcess:
    """A running server; ``start`` returns when it answers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._watchdog = _start_watchdog(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(
        cls, binary: Path, config: Path, *, address: Address, log: Path, lock_fd: int, timeout_s: float
    ) -> Self:
        """Raises ``StoreConfigError`` with the log's tail if it ends or does not answer within the limit."""
        with log.open("ab") as output:
            # Its own session: Ctrl-C in a terminal reaches us alone, and we stop it after the last commit.
            process = await asyncio.create_subprocess_exec(
                binary,
                config,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock_fd,),
                cwd=config.parent,
            )
        child = cls(process)
        try:
            await asyncio.wait_for(child._answers(address, log), timeout_s)
        except TimeoutError as error:
            await child.stop()
            raise StoreConfigError(f"Valkey did not answer within {timeout_s} s: {_tail(log)}") from error
        except BaseException:
            await child.stop()
            raise
        return child

    async def _answers(self, address: Address, log: Path) -> None:
        while True:
            if self._process.returncode is not None:
                raise StoreConfigError(f"Valkey ended with {self._process.returncode} at start: {_tail(log)}")
            try:
                reply = await address.talk("PING")
            except (OSError, TimeoutError):
                reply = ""
            if reply == "+PONG":
                return
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> int:
        """The exit status, once it ended."""
        code = await self._process.wait()
        self._end_watchdog()
        return code

    async def stop(self) -> None:
        """Ask it to end, then end it."""
        self._end_watchdog()
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _end_watchdog(self) -> None:
        self._watchdog.kill()
        self._watchdog.wait()
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()


def _start_watchdog(pid: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "hope-watchdog", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip() or "its log is empty"
