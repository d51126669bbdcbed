"""The header of a GGUF file, read strictly, and its tensors, dequantised.

The layout (ggml's docs/gguf.md) is walked here because every count in it is a stranger's: each is compared
with what the file can hold before anything is read or kept.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hope_model.convert.tensors import Shape
from hope_model.errors import ConversionError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ENTRIES = 1 << 16
_MAX_ITEMS = 1 << 22
_MAX_TEXT_BYTES = 4 << 20
_MAX_DIMENSIONS = 4
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class _Entry:
    """A tensor's place.

    shape: rows first, as torch has it. kind: a GGMLQuantizationType. start: bytes from the file's start.
    """

    shape: Shape
    kind: int
    start: int
    row_bytes: int


class GgufFile:
    """Metadata and tensors of one file.

    metadata: values by key; arrays are lists, numbers and texts are Python's.
    shapes: of every tensor.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            ConversionError: not GGUF, truncated at any point, or beyond what this reader takes.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{path}: cannot be read: {error}") from error
        header = _Header(self._data, path)
        self.metadata: Mapping[str, Any] = header.metadata
        self._entries = header.entries
        self.shapes = {name: entry.shape for name, entry in self._entries.items()}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor's values in a floating type, dequantised piece by piece.

        Raises:
            ConversionError: its quantisation is not one that the gguf library undoes.
        """
        from gguf import GGMLQuantizationType, dequantize

        entry, kind = self._entries[name], GGMLQuantizationType(self._entries[name].kind)
        rows = math.prod(entry.shape[:-1])
        raw = np.frombuffer(self._data, np.uint8, rows * entry.row_bytes, entry.start)
        raw = raw.reshape(rows, entry.row_bytes)
        result = torch.empty(rows, entry.shape[-1], dtype=dtype)
        step = max(1, _CHUNK_VALUES // entry.shape[-1])
        for start in range(0, rows, step):
            try:
                # Scales that are not finite are found by whoever reads the values.
                with np.errstate(all="ignore"):
                    values = dequantize(raw[start : start + step].copy(), kind)
            except NotImplementedError as error:
                raise ConversionError(f"{self._path}: tensor {name!r}: {error}") from error
            # Without the sign that a zero has from a negative scale: such blocks can be kept as they are.
            result[start : start + step] = torch.from_numpy(values) + 0.0
        return result.reshape(entry.shape)


class _Header:
    """One walk over the header. Every `_take` is checked against the end of the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = 0
        if self._take(4, "magic") != MAGIC:
            raise ConversionError(f"{path}: expected a GGUF file, found another")
        version = self._scalar("I", "version")
        if version not in _VERSIONS:
            raise ConversionError(f"{path}: expected GGUF version 2 or 3, found {version}")
        tensors = self._count(_MAX_ENTRIES, "number of tensors")
        pairs = self._count(_MAX_ENTRIES, "number of settings")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._text("key")
            if key in self.metadata:
                raise ConversionError(f"{path}: {key!r} is there twice")
            self.metadata[key] = self._value(self._scalar("I", key), key)
        infos = [self._tensor_info() for _ in range(tensors)]
        self.entries = self._placed(infos)

    def _take(self, size: int, what: str) -> bytes:
        if size > len(self._data) - self._at:
            raise ConversionError(f"{self._path}: truncated: ends within {what[:80]}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _scalar(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code), what))[0]

    def _count(self, limit: int, what: str) -> int:
        count = int(self._scalar("Q", what))
        if count > limit:
            raise ConversionError(f"{self._path}: {what[:80]}: expected at most {limit}, found {count}")
        return count

    def _text(self, what: str) -> str:
        raw = self._take(self._count(_MAX_TEXT_BYTES, what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConversionError(f"{self._path}: {what[:80]}: expected UTF-8, found {error}") from error

    def _value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self._text(what)
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind], what)
        if kind != _ARRAY:
            raise ConversionError(f"{self._path}: {what[:80]}: unknown type of value {kind}")
        item = self._scalar("I", what)
        count = self._count(_MAX_ITEMS, what)
        if item == _STRING:
            return [self._text(what) for _ in range(count)]
        if item not in _SCALARS:
            raise ConversionError(f"{self._path}: {what[:80]}: unknown type of items {item}")
        code = f"<{count}{_SCALARS[item]}"
        return list(struct.unpack(code, self._take(struct.calcsize(code), what)))

    def _tensor_info(self) -> tuple[str, Shape, int, int]:
        """Name, shape, type and offset within the data."""
        name = self._text("a tensor's name")
        dimensions = self._scalar("I", name)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ConversionError(f"{self._path}: tensor {name[:80]!r}: {dimensions} dimensions")
        # The file gives the length of a row first.
        shape = tuple(reversed([self._scalar("Q", name) for _ in range(dimensions)]))
        return name, shape, self._scalar("I", name), self._scalar("Q", name)

    def _placed(self, infos: list[tuple[str, Shape, int, int]]) -> dict[str, _Entry]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ConversionError(f"{self._path}: general.alignment: expected a power of two")
        data_start = -(-self._at // alignment) * alignment
        kinds = {known.value for known in GGMLQuantizationType}
        entries: dict[str, _Entry] = {}
        for name, shape, kind, offset in infos:
            where = f"{self._path}: tensor {name[:80]!r}"
            if name in entries:
                raise ConversionError(f"{where} is there twice")
            if kind not in kinds:
                raise ConversionError(f"{where}: unknown quantisation {kind}")
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if 0 in shape or shape[-1] % block:
                raise ConversionError(f"{where}: expected rows in blocks of {block}, found {list(shape)}")
            row_bytes = shape[-1] // block * block_bytes
            start = data_start + offset
            if start + math.prod(shape[:-1]) * row_bytes > len(self._data):
                raise ConversionError(f"{where}: truncated: the file ends before its last value")
            entries[name] = _Entry(shape, kind, start, row_bytes)
        return entries
