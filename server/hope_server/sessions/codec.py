"""One session's state row as named parts of bytes, and back.

The plan of parts follows from the ``StateSpec`` alone: the tensors of a level, in order, in groups of at most
1 MiB. The decoder holds that plan, so it refuses everything else before it allocates a tensor. Layouts are
little endian:

- ``head``: magic 8 | version u16 | parts u16 | layout hash 32 | seq u64 | sha256 of each part | own sha256.
  It binds one generation together: parts of two snapshots do not decode.
- ``<level>.<n>``: magic 8 | version u16 | part u16 | layout hash 32 | raw bytes u64 | zstd | own sha256.
  Its bytes do not depend on ``seq``, so a level that did not learn encodes to the same part. The zstd frame
  holds the group's tensors, each byte-shuffled (all first bytes, all second bytes, ...): floats compress
  better that way.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
import zstandard

from hope_model.state import State, StateSpec, TensorSpec
from hope_server.errors import SnapshotCorrupt

HEAD = "head"
PART_RAW_BYTES = 1 << 20
"""Raw size at which a part ends; a larger tensor is a part of its own."""

_VERSION = 1
_HEAD_MAGIC, _PART_MAGIC = b"HOPEHEAD", b"HOPEPART"
_HEAD = struct.Struct("<8sHH32sQ")
_PART = struct.Struct("<8sHH32sQ")
_SHA_BYTES = 32
_LEVEL = 1  # of zstd: higher ones gain nothing on weights


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    index: int
    tensors: tuple[TensorSpec, ...]

    @property
    def raw_bytes(self) -> int:
        return sum(tensor.row_bytes for tensor in self.tensors)


def encode_row(spec: StateSpec, row: State, seq: int) -> dict[str, bytes]:
    """The parts of ``row``, every tensor of ``spec`` as ``[1, *shape]``, after token ``seq``.

    Deterministic. Raises ``ValueError`` for a row that does not fit the spec, ``SnapshotCorrupt`` for a
    non-finite value.
    """
    layout = bytes.fromhex(spec.sha256())
    parts = {part.name: _encode_part(layout, part, row) for part in _plan(spec)}
    head = _HEAD.pack(_HEAD_MAGIC, _VERSION, len(parts), layout, seq)
    return {HEAD: _sealed(head + b"".join(sha256(data).digest() for data in parts.values())), **parts}


def decode_row(spec: StateSpec, parts: Mapping[str, bytes], seq: int) -> State:
    """The row that was encoded after token ``seq``, on the CPU, every tensor ``[1, *shape]``.

    Raises ``SnapshotCorrupt`` for parts that are damaged, of another layout or generation, or non-finite.
    """
    plan = _plan(spec)
    expected = {HEAD, *(part.name for part in plan)}
    if set(parts) != expected:
        raise SnapshotCorrupt(
            f"expected the {len(expected)} parts of the layout, found {len(parts)} of other names"
        )
    layout = bytes.fromhex(spec.sha256())
    _check_head(layout, parts, plan, seq)
    row: State = {}
    for part in plan:
        row.update(_decode_part(layout, part, parts[part.name]))
    return row


def part_names(spec: StateSpec) -> list[str]:
    """The parts that ``encode_row`` makes, in order."""
    return [HEAD, *(part.name for part in _plan(spec))]


def max_part_bytes(spec: StateSpec) -> int:
    """No part that ``encode_row`` makes is larger: zstd adds little to what it cannot compress."""
    largest = max(part.raw_bytes for part in _plan(spec))
    return largest + largest // 128 + 1024 + _SHA_BYTES * len(_plan(spec))


def _plan(spec: StateSpec) -> list[_Part]:
    names = set(spec.by_name)
    if len(names) != len(spec.tensors):
        raise ValueError("a state layout names each tensor once")
    levels = dict.fromkeys(tensor.level for tensor in spec.tensors)
    plan: list[_Part] = []
    for level in levels:
        tensors = [tensor for tensor in spec.tensors if tensor.level == level]
        for number, group in enumerate(_groups(tensors)):
            plan.append(_Part(f"{level}.{number}", len(plan), group))
    return plan


def _groups(tensors: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, ...]]:
    group: list[TensorSpec] = []
    for tensor in tensors:
        if group and sum(t.row_bytes for t in group) + tensor.row_bytes > PART_RAW_BYTES:
            yield tuple(group)
            group = []
        group.append(tensor)
    if group:
        yield tuple(group)


def _encode_part(layout: bytes, part: _Part, row: State) -> bytes:
    raw = b"".join(_encode_tensor(tensor, row) for tensor in part.tensors)
    header = _PART.pack(_PART_MAGIC, _VERSION, part.index, layout, len(raw))
    return _sealed(header + zstandard.ZstdCompressor(level=_LEVEL).compress(raw))


def _encode_tensor(spec: TensorSpec, row: State) -> bytes:
    tensor = row.get(spec.name)
    if tensor is None or tensor.shape != (1, *spec.shape) or tensor.dtype != spec.dtype:
        found = "none" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
        raise ValueError(f"expected {spec.name} as {(1, *spec.shape)} {spec.dtype}, found {found}")
    _check_finite(spec, tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.reshape(-1, spec.dtype.itemsize).T.tobytes()


def _check_head(layout: bytes, parts: Mapping[str, bytes], plan: Sequence[_Part], seq: int) -> None:
    body = _unsealed(HEAD, parts[HEAD])
    if len(body) != _HEAD.size + _SHA_BYTES * len(plan):
        raise SnapshotCorrupt(f"expected a head of {len(plan)} parts, found {len(body)} bytes")
    if body[: _HEAD.size] != _HEAD.pack(_HEAD_MAGIC, _VERSION, len(plan), layout, seq):
        raise SnapshotCorrupt(f"expected the head of this layout at {seq}, found another one")
    digests = b"".join(sha256(parts[part.name]).digest() for part in plan)
    if body[_HEAD.size :] != digests:
        raise SnapshotCorrupt("the parts are not those of one snapshot")


def _decode_part(layout: bytes, part: _Part, data: bytes) -> State:
    body = _unsealed(part.name, data)
    header = _PART.pack(_PART_MAGIC, _VERSION, part.index, layout, part.raw_bytes)
    if body[: _PART.size] != header:
        raise SnapshotCorrupt(f"expected the header of part {part.name} in this layout, found another one")
    raw = _decompress(part, body[_PART.size :])
    row: State = {}
    at = 0
    for spec in part.tensors:
        row[spec.name] = _decode_tensor(spec, raw[at : at + spec.row_bytes])
        at += spec.row_bytes
    return row


def _decompress(part: _Part, frame: bytes) -> bytes:
    """The frame's content, which must have the part's size and name it: nothing larger is allocated."""
    try:
        if zstandard.frame_content_size(frame) != part.raw_bytes:
            raise SnapshotCorrupt(f"expected {part.raw_bytes} bytes in part {part.name}, found another size")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_window_bytes(part))
        raw = decompressor.decompress(frame, max_output_size=part.raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise SnapshotCorrupt(f"expected a zstd frame in part {part.name}: {error}") from error
    if len(raw) != part.raw_bytes:
        raise SnapshotCorrupt(f"expected {part.raw_bytes} bytes in part {part.name}, found {len(raw)}")
    return raw


def _window_bytes(part: _Part) -> int:
    return max(1 << 10, 2 * part.raw_bytes)


def _decode_tensor(spec: TensorSpec, raw: bytes) -> torch.Tensor:
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(spec.dtype.itemsize, -1)
    flat = torch.from_numpy(planes.T.copy().reshape(-1))
    tensor = flat.view(spec.dtype).reshape(1, *spec.shape)
    _check_finite(spec, tensor)
    return tensor


def _check_finite(spec: TensorSpec, tensor: torch.Tensor) -> None:
    if spec.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise SnapshotCorrupt(f"expected finite values in {spec.name}, found others")


def _sealed(body: bytes) -> bytes:
    return body + sha256(body).digest()


def _unsealed(name: str, data: bytes) -> bytes:
    body, digest = data[:-_SHA_BYTES], data[-_SHA_BYTES:]
    if len(body) < _PART.size or sha256(body).digest() != digest:
        raise SnapshotCorrupt(f"part {name} does not match its checksum")
    return body
