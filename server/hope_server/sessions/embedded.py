"""The default store: a Valkey server of our own, as a child process behind a unix socket.

It keeps an append-only file, synced before every reply unless asked otherwise, in a directory of its own; it
dies with us and is started again when it dies alone.
"""

import asyncio
import json
import logging
import re
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from hope_server.errors import StoreConfigError
from hope_server.sessions.aof_rewrite import remove_leftovers, rewrite_aof
from hope_server.sessions.binary import find_binary
from hope_server.sessions.data_lock import DataLock
from hope_server.sessions.erasure import SETTLE_S, Erasure
from hope_server.sessions.valkey_process import Address, ValkeyProcess

logger = logging.getLogger(__name__)

_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_LOG_BYTES = 4 << 20
# A store waits longer for a lost connection than the longest pause, so one death shows as a delay only.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.05, 1.0, 1.0
_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 600
requirepass {password}
dir {directory}
daemonize no
databases 1
logfile ""
loglevel notice
save ""
appendonly yes
appendfsync {appendfsync}
no-appendfsync-on-rewrite no
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
maxmemory {maxmemory}
maxmemory-policy noeviction
"""


class EmbeddedValkey:
    """A supervised Valkey; between ``start`` and ``stop`` a store can be opened at ``url``.

    Args:
        data_dir: Its directory; created with mode 0700, used by one server at a time.
        maxmemory: Valkey's memory limit, such as ``2gb``; 0 for none.
        appendfsync: Whether the disk has a commit before it is acknowledged, or a second later.
        binary: The server; found by ``find_binary`` if not given.
        start_timeout_s: The longest wait for it to load its data and answer.
        settle_s: From a deletion to the rewrite that removes it from the disk.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        maxmemory: str = "0",
        appendfsync: Literal["always", "everysec"] = "always",
        binary: Path | None = None,
        start_timeout_s: float = 120.0,
        settle_s: float = SETTLE_S,
    ) -> None:
        if not re.fullmatch(r"\d+([kmg]b?|b)?", maxmemory, re.IGNORECASE):
            message = f"maxmemory is a number with kb, mb or gb, found {maxmemory!r}"
            raise StoreConfigError(message, param="maxmemory")
        self.data_dir = data_dir.absolute()
        self.restarts = 0
        self._maxmemory = maxmemory
        self._appendfsync = appendfsync
        self._binary = binary
        self._start_timeout_s = start_timeout_s
        self._lock = DataLock(self.data_dir)
        self._address: Address | None = None
        self._child: ValkeyProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.erasure = Erasure(self.data_dir / "erasure-due", self._rewrite, settle_s=settle_s)

    @property
    def url(self) -> str:
        """The store's URL, password included: not for logs."""
        assert self._address is not None, "start first"
        return f"unix://:{self._address.password}@{quote(str(self._address.socket))}"

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Raises ``StoreConfigError`` naming what is missing or in the way."""
        self._binary = self._binary or find_binary()
        self._make_directory()
        try:
            await self._lock.take(self._stop_orphan)
            self._remove_socket(self._last_address())
            self._address = self._new_address()
            self._write_files(self._address)
            await self._run()
        except BaseException:
            self._release()
            raise
        self._supervisor = asyncio.create_task(self._supervise())
        self.erasure.start()

    async def stop(self) -> None:
        """End the child after it has written what it has; safe to call twice."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self.erasure.stop()
        if self._child is not None:
            await self._child.stop()
            self._child = None
        self._release()

    def _release(self) -> None:
        self._remove_socket(self._address)
        self._lock.release()

    async def _run(self) -> None:
        assert self._binary is not None
        assert self._address is not None
        self._rotate_log()
        remove_leftovers(self.data_dir)
        self._child = await ValkeyProcess.start(
            self._binary,
            self._config,
            address=self._address,
            log=self._log,
            lock_fd=self._lock.child_fd,
            timeout_s=self._start_timeout_s,
        )

    async def _rewrite(self) -> None:
        assert self._address is not None
        await rewrite_aof(self._address, self.data_dir)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            if self._child is not None:
                code = await self._child.wait()
                self._child = None
                logger.error("Valkey ended with %s, starting it again", code)
            if loop.time() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            try:
                await self._run()
                self.restarts += 1
            except (StoreConfigError, OSError) as error:
                logger.error("Valkey does not start: %s", error)

    def _make_directory(self) -> None:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.data_dir.chmod(0o700)
        except OSError as error:
            message = f"data_dir {self.data_dir} cannot be used: {error.strerror}"
            raise StoreConfigError(message, param="data_dir") from error

    def _new_address(self) -> Address:
        """The socket lies in the data directory unless that path is too long for the kernel."""
        socket = self.data_dir / "valkey.sock"
        if len(str(socket).encode()) > _SOCKET_PATH_BYTES:
            socket = Path(tempfile.mkdtemp(prefix="hope-")) / "valkey.sock"
        return Address(socket, secrets.token_hex(32))

    def _write_files(self, address: Address) -> None:
        text = _CONFIG.format(
            socket=_quoted(address.socket),
            password=address.password,
            directory=_quoted(self.data_dir),
            maxmemory=self._maxmemory,
            appendfsync=self._appendfsync,
        )
        runtime = json.dumps({"socket": str(address.socket), "password": address.password})
        for path, content in ((self._config, text), (self._runtime, runtime)):
            path.touch(mode=0o600)
            path.write_text(content, encoding="utf-8")

    def _last_address(self) -> Address | None:
        """Where the server of an earlier run listened, if it left word."""
        try:
            found = json.loads(self._runtime.read_text(encoding="utf-8"))
            return Address(Path(found["socket"]), str(found["password"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def _stop_orphan(self) -> bool:
        """Whether the Valkey of an earlier server took the order to end."""
        logger.warning("a Valkey of an earlier server still runs in %s, stopping it", self.data_dir)
        address = self._last_address()
        if address is None:
            return False
        try:
            return not (await address.talk("SHUTDOWN")).startswith("-")
        except (OSError, TimeoutError):
            return False

    def _remove_socket(self, address: Address | None) -> None:
        if address is None:
            return
        address.socket.unlink(missing_ok=True)
        if address.socket.parent != self.data_dir and address.socket.parent.name.startswith("hope-"):
            shutil.rmtree(address.socket.parent, ignore_errors=True)

    def _rotate_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))

    @property
    def _config(self) -> Path:
        return self.data_dir / "valkey.conf"

    @property
    def _log(self) -> Path:
        return self.data_dir / "valkey.log"

    @property
    def _runtime(self) -> Path:
        return self.data_dir / "runtime.json"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
