"""Writing a checkpoint of family hope_attention, one tensor in memory at a time."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hope_model.convert.progress import Progress
from hope_model.convert.tensors import Shape, Weights
from hope_model.errors import ConversionError

FAMILY = "hope_attention"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
    torch.uint8: "U8",
}


def write_text(path: Path, text: str) -> None:
    """Write and sync a file. Raises OSError."""
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
        _sync(file)


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """Write config.json. Raises OSError, and ConversionError for what JSON cannot hold."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConversionError(f"config.json: {error}") from error
    write_text(path, text + "\n")


def write_tensors(path: Path, weights: Weights, extra: Mapping[str, Tensor], progress: Progress) -> None:
    """Write and sync a safetensors file of ``weights`` and, each in its own type, ``extra``.

    Raises:
        ConversionError: a tensor of ``extra`` has a name or type that does not do, or values are not finite.
        OSError: the disk is full, or otherwise refuses.
    """
    _require_savable(weights, extra)
    places: dict[str, tuple[torch.dtype, Shape]] = {
        **{name: (weights.dtype, shape) for name, shape in weights.shapes.items()},
        **{name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in extra.items()},
    }
    # Large items first, so that every tensor starts at a multiple of its item's size.
    order = sorted(places, key=lambda name: (-places[name][0].itemsize, name))
    header, total = _header(places, order)
    with path.open("xb") as file:
        file.write(header)
        for name in order:
            tensor = extra[name] if name in extra else weights[name]
            file.write(_bytes_of(tensor).numpy().data)
            progress("writing weights", file.tell() - len(header), total)
        _sync(file)


def _require_savable(weights: Weights, extra: Mapping[str, Tensor]) -> None:
    for name, tensor in extra.items():
        if name in weights.shapes:
            raise ConversionError(f"tensor {name!r}: expected a name that the backbone does not have")
        if tensor.dtype not in _NAMES:
            raise ConversionError(f"tensor {name!r}: expected a type that can be saved, found {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConversionError(f"tensor {name!r}: expected finite values, found others")


def _header(places: Mapping[str, tuple[torch.dtype, Shape]], order: list[str]) -> tuple[bytes, int]:
    """The file's beginning, and how many bytes follow it."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        dtype, shape = places[name]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        content[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
