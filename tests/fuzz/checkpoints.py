"""Readers of checkpoints that an operator may have from anywhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.fuzz.target import Target
from tests.model.convert.builders import hugging_face_config, random_weights, tiny_backbone, write_gguf

from hope_model.attention.backbone import tensor_shapes
from hope_model.checkpoint import _read_config, read_weights
from hope_model.config import CONFIGS
from hope_model.convert.files import read_fields
from hope_model.convert.gguf_file import GgufFile
from hope_model.convert.huggingface_config import backbone_from
from hope_model.errors import HopeModelError


def _as_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """``read`` on a file that holds the input."""

    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            return read(path)

    return run


def _gguf(path: Path) -> object:
    file = GgufFile(path)
    return [file.read(name, torch.float32) for name in file.shapes]


def _gguf_seed() -> bytes:
    backbone = tiny_backbone(layers=1)
    weights = {
        name: tensor for name, tensor in random_weights(tensor_shapes(backbone)).items() if tensor.ndim == 1
    }
    with tempfile.TemporaryDirectory() as folder:
        return write_gguf(Path(folder) / "seed.gguf", backbone, weights).read_bytes()


def _safetensors_seed() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.safetensors"
        save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, path)
        return path.read_bytes()


SHAPES = {"a": torch.Size([2, 3]), "b": torch.Size([4])}
OWN = {"format": 1, "family": "hope", "model": CONFIGS["hope-tiny"].to_dict()}

TARGETS = (
    Target("gguf", _as_file("x.gguf", _gguf), (HopeModelError,), (_gguf_seed(),)),
    Target(
        "safetensors",
        _as_file("x.safetensors", lambda path: read_weights(path, SHAPES)),
        (HopeModelError,),
        (_safetensors_seed(),),
    ),
    Target(
        "config",
        _as_file("config.json", _read_config),
        (HopeModelError,),
        (json.dumps(OWN).encode(),),
    ),
    Target(
        "config-of-others",
        _as_file("config.json", lambda path: backbone_from(read_fields(path, 1 << 20))),
        (HopeModelError,),
        (json.dumps(hugging_face_config()).encode(),),
    ),
)
