"""A `hope serve` process, which faults kill, freeze and stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

LEASE_TTL_S = 2.0
READY = re.compile(r"ready at (http://\S+) ")
REFUSED = 2
"""The exit status of a server that does not start with its settings."""
STORE = "--redis-url"
"""Named by one whose store does not answer, which a fault may be the cause of."""


class Worker:
    """One place for a server process: when its process dies, another one takes the place."""

    def __init__(self, number: int, *, checkpoint: Path, data_dir: Path, store_port: int) -> None:
        self.number = number
        self.log = data_dir.parent / f"worker-{number}.log"
        self._command = [
            *(sys.executable, "-m", "hope_server", "serve", "--port", "0", "--threads", "1"),
            *("--model", str(checkpoint), "--data-dir", str(data_dir), "--log-level", "warning"),
            *("--redis-url", f"redis://127.0.0.1:{store_port}", "--lease-ttl-s", str(LEASE_TTL_S)),
            *("--drain-deadline-s", "3"),
        ]
        self._process: asyncio.subprocess.Process | None = None
        self.url: str | None = None
        """None while nobody answers."""

    async def start(self) -> None:
        """Until a process says that it is ready; one that cannot reach its store is begun again.

        Raises RuntimeError with the words of a server that refuses its settings.
        """
        settings = {
            name: text for name, text in os.environ.items() if not name.startswith(("HOPE_", "REDIS_"))
        }
        while self.url is None:
            with self.log.open("ab") as log:
                said = log.tell()
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdout=asyncio.subprocess.PIPE, stderr=log, env=settings
                )
            assert self._process.stdout is not None
            found = READY.search((await self._process.stdout.readline()).decode())
            self.url = found and found[1]
            if self.url is None and await self._process.wait() == REFUSED:
                words = self.log.read_bytes()[said:].decode(errors="replace").strip()
                if STORE not in words:
                    raise RuntimeError(f"worker {self.number} did not start: {words}")

    async def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self.url = None
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.url = None
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()

    def freeze(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
