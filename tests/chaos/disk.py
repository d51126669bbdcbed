"""The store's disk, small enough to be filled: a tmpfs where mounting is allowed, else a file-size limit."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Protocol

from tests.chaos.valkey import Valkey

TMPFS_BYTES = 192 << 20
LIMITED_BYTES = 1
"""A file may not grow beyond it: every append fails."""


class Disk(Protocol):
    """Where a Valkey keeps its data."""

    kind: str

    def fill(self, valkey: Valkey) -> None:
        """From now on nothing can be written."""

    def free(self) -> None:
        """From the next start of Valkey on there is room again."""

    def remove(self) -> None:
        """Give back what was mounted."""


class Tmpfs:
    """A file system of its own; needs the right to mount."""

    kind = "full tmpfs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"

    def fill(self, valkey: Valkey) -> None:
        """Takes every free page; another file's last page may have a little left."""
        with self._ballast.open("ab") as ballast:
            while room := os.fstatvfs(ballast.fileno()).f_bavail * os.fstatvfs(ballast.fileno()).f_frsize:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), room)
                except OSError:  # somebody else was faster
                    continue
                ballast.seek(0, os.SEEK_END)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        subprocess.run(["umount", "--lazy", self._folder], check=True)


class FileLimit:
    """RLIMIT_FSIZE of the running Valkey; a new process does not have it any more."""

    kind = "file-size limit"

    def fill(self, valkey: Valkey) -> None:
        resource.prlimit(valkey.pid, resource.RLIMIT_FSIZE, (LIMITED_BYTES, resource.RLIM_INFINITY))

    def free(self) -> None:
        """Nothing: the limit died with the process."""

    def remove(self) -> None:
        """Nothing was mounted."""


def open_disk(folder: Path) -> Disk:
    """A disk at ``folder``, which is made."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    return Tmpfs(folder) if mounted else FileLimit()
