"""Shard files as streams of rows: `.jsonl.zst`, `.jsonl` (field "text") and `.txt`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from hope_model.errors import DataError

SUFFIXES = (".jsonl.zst", ".jsonl", ".txt")
MAX_ROW_BYTES = 64 * 1024 * 1024
_DOCUMENT_BREAK = b"<|endoftext|>"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One document as it lies in its shard; parsing waits until the row is used."""

    shard: Path
    number: int
    raw: bytes

    @property
    def text(self) -> str:
        """The document's text; raises DataError naming file and row."""
        text = self.raw if self.shard.suffix == ".txt" else self._parsed()
        if isinstance(text, bytes):
            try:
                return text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.error(f"expected UTF-8, found {error}") from error
        return text

    def _parsed(self) -> str:
        try:
            row = json.loads(self.raw)
        except (ValueError, RecursionError) as error:
            raise self.error(f"expected JSON, found {error}") from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise self.error('expected an object with a text in the field "text"')
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(f"expected valid Unicode, found {error}") from error
        return text

    def error(self, problem: str) -> DataError:
        """A DataError that names this row."""
        return DataError(f"{self.shard.name}: row {self.number}: {problem}")


def read_rows(shard: Path, max_row_bytes: int = MAX_ROW_BYTES) -> Iterator[RawRow]:
    """Stream the rows of one shard, numbered from 1; memory is bounded by the longest row.

    A `.txt` shard holds documents divided by lines that read <|endoftext|>. Raises DataError naming file and
    row.
    """
    rows = _text_rows if shard.suffix == ".txt" else _json_rows
    if not shard.name.endswith(SUFFIXES):
        raise DataError(f"{shard.name}: expected a name that ends in {', '.join(SUFFIXES)}")
    number = 0
    try:
        with _opened(shard) as stream:
            for raw in rows(stream, max_row_bytes):
                number += 1
                if len(raw) > max_row_bytes:
                    raise RawRow(shard, number, b"").error(f"expected at most {max_row_bytes} bytes")
                if raw.strip():
                    yield RawRow(shard, number, raw)
    except (OSError, zstandard.ZstdError) as error:
        raise DataError(f"{shard.name}: cannot be read after row {number}: {error}") from error


@contextmanager
def _opened(shard: Path) -> Iterator[BinaryIO]:
    with shard.open("rb") as file:
        if shard.suffix != ".zst":
            yield file
            return
        with io.BufferedReader(_ZstdStream(file), 1 << 20) as stream:
            yield stream


class _ZstdStream(io.RawIOBase):
    """The decompressed bytes of a file of zstd frames; a frame cut off at the file's end is an OSError."""

    # A compressed KiB can stand for at most 256 blocks of 128 KiB, which bounds one decompressed piece.
    _INPUT_BYTES = 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._pending:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _advance(self) -> bool:
        """Decompress the next input; False at a clean end of the file."""
        raw = self._frame.unused_data if self._frame and self._frame.eof else b""
        raw = raw or self._file.read(self._INPUT_BYTES)
        if not raw:
            if self._frame and not self._frame.eof:
                raise OSError("expected a whole zstd frame, found the end of the file")
            return False
        if self._frame is None or self._frame.eof:
            self._frame = self._decompressor.decompressobj()
        self._pending = memoryview(self._frame.decompress(raw))
        return True


def _json_rows(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines; one that is longer than `limit` bytes comes out cut, `limit` + 1 bytes long."""
    while line := stream.readline(limit + 1):
        yield line


def _text_rows(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    while line := stream.readline(limit + 1):
        if line.strip() == _DOCUMENT_BREAK:
            yield b"".join(lines)
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        if size > limit:
            break
    yield b"".join(lines)
