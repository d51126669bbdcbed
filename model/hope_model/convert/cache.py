"""Folders that appear whole or not at all, and that one process at a time makes."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hope_kernels.cpu.cache import user_cache_dir
from hope_model.convert.progress import Progress
from hope_model.errors import ConversionError

_PARTIAL = ".partial-"


def default_cache_dir() -> Path:
    """``hope`` in the user's cache: XDG_CACHE_HOME, or ~/.cache.

    Raises:
        ConversionError: there is neither.
    """
    cache = user_cache_dir()
    if cache is None:
        raise ConversionError("no home directory is known: set XDG_CACHE_HOME or HOME")
    return cache


def models_dir() -> Path:
    """Where converted models are kept by name."""
    return default_cache_dir() / "models"


@contextmanager
def exclusive(target: Path, progress: Progress) -> Iterator[None]:
    """Hold the right to make the folder ``target``, waiting for whoever has it. Raises OSError.

    What processes that died while they had it left behind is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    file = _locked(lock, progress, target.name)
    try:
        _remove_stale(target.parent, target.name)
        yield
    finally:
        # Removed while it is held: whoever waits for it sees that, and makes a new one.
        lock.unlink(missing_ok=True)
        file.close()


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, removed in the end. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}{_PARTIAL}", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, target: Path) -> None:
    """Make a finished folder appear as ``target``, which may be an empty folder. Raises OSError."""
    sync(folder)
    folder.rename(target)
    sync(target.parent)


def sync(folder: Path) -> None:
    """Wait until a folder's entries are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path, progress: Progress, name: str) -> IO[bytes]:
    """The lock's file, once it is held and still the one that others find."""
    while True:
        file = path.open("ab")
        try:
            if not _try_lock(file, fcntl.LOCK_EX):
                progress(f"waiting for another process that converts {name}")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _remove_stale(parent: Path, own: str) -> None:
    """Remove folders of `staging` whose lock nobody holds, but for the caller, who has begun none."""
    for folder in parent.glob(f".*{_PARTIAL}*"):
        name = folder.name[1:].rpartition(_PARTIAL)[0]
        if name == own or not _is_held(parent / f".{name}.lock"):
            shutil.rmtree(folder, ignore_errors=True)


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not _try_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _try_lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
