"""Where compiled libraries are kept, and which of them may be loaded: a library in a folder that others can
write to runs what others wrote.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def user_cache_dir() -> Path | None:
    """``hope`` in the user's cache: XDG_CACHE_HOME, or ~/.cache; None where neither is known."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the specification has relative paths ignored
        base = os.path.expanduser("~/.cache")
    return Path(base) / "hope" if os.path.isabs(base) else None


@contextmanager
def library_dir() -> Iterator[Path]:
    """A folder of this user alone: in the cache, or, where there is none to write to, one that is removed in
    the end. Raises OSError.
    """
    cache = user_cache_dir()
    folder = None if cache is None else cache / "kernels"
    if folder is not None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            usable = os.access(folder, os.W_OK) and is_private(folder)
        except OSError:
            usable = False
        if usable:
            yield folder
            return
    with tempfile.TemporaryDirectory(prefix="hope-kernels-") as own:
        yield Path(own)


def is_private(path: Path) -> bool:
    """Whether a folder or regular file, not a link, is this user's and nobody else may write to it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return plain and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
