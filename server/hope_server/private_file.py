"""Small files that only their owner reads, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from hope_server.errors import StartupError

MAX_BYTES = 16 << 20


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make `directory` (mode 0700) if it is missing, and be its only writer inside."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def replace(path: Path, content: bytes) -> None:
    """Write `path` with mode 0600, durably: a reader sees the old content or the new, never a part."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    _write(fresh, content)
    fresh.replace(path)
    _sync(path.parent)


def create(path: Path, content: bytes) -> None:
    """As `replace`, but a file that is there stays: of several callers at once, the first one's."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    _write(fresh, content)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    _sync(path.parent)


def read(path: Path, *, param: str) -> bytes:
    """The content of a file that nobody but its owner may read.

    Raises:
        FileNotFoundError: There is none.
        StartupError: It is too large, or others may read it; names the setting `param`.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            found = f"{stat.S_IMODE(status.st_mode):04o}"
            raise StartupError(f"{path}: expected mode 0600, found {found}: run chmod 600", param=param)
        if status.st_size > MAX_BYTES:
            raise StartupError(f"{path}: expected at most {MAX_BYTES} bytes", param=param)
        return file.read(MAX_BYTES)


def version(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever `replace` was called; None while there is no such file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """What was renamed or linked in it stays so after a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
