"""Ways in which a file of a checkpoint comes to harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DAMAGES = ("missing", "empty", "cut", "noise", "folder")


def damage(path: Path, kind: str) -> None:
    """Do one of :data:`DAMAGES` to a file."""
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": b"\xff\x00" * 99}[kind])


def cut_short(path: Path) -> Iterator[int]:
    """The file with fewer and fewer of its bytes missing: yields how many it holds."""
    content = path.read_bytes()
    for kept in (1, 7, 8, 100, len(content) - 1):
        path.write_bytes(content[:kept])
        yield kept
