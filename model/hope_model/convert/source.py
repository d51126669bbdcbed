"""Where a pre-trained model can come from, and what every source yields."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hope_model.attention.config import BackboneConfig
from hope_model.convert.progress import Progress
from hope_model.convert.tensors import Shape
from hope_model.errors import ConversionError
from hope_model.registry import Registry


@dataclass(frozen=True)
class TurnTokens:
    """Ids that begin and end text.

    eos: ids that end a turn; the first is what chat templates call eos_token.
    bos: what they call bos_token; plain text starts with it if ``add_bos``.
    """

    eos: tuple[int, ...]
    bos: int | None
    add_bos: bool


@dataclass(frozen=True)
class Pretrained:
    """A model as its source describes it; nothing is read from disk before it is asked for.

    shapes: of the backbone's tensors, which are those of `tensor_shapes`.
    read: a tensor by name in a floating type, as a copy of its own.
    """

    backbone: BackboneConfig
    shapes: Mapping[str, Shape]
    read: Callable[[str, torch.dtype], Tensor]
    tokenizer_json: str
    chat_template: str | None
    tokens: TurnTokens
    licence: str | None


class Source(Protocol):
    """A place that holds one pre-trained model."""

    name: str
    """For the model, unless the caller knows a better one."""

    def __init__(self, reference: str) -> None:
        """Raises ConversionError when ``reference`` leads nowhere."""

    @staticmethod
    def accepts(reference: str) -> bool:
        """Whether this kind of source is meant."""

    def identity(self, progress: Progress) -> dict[str, Any]:
        """What is written to config.json as ``source``: equal for equal files, without network access."""

    def open(self, scratch: Path, progress: Progress) -> Pretrained:
        """Fetch and check; files that are needed until the conversion ends go to ``scratch``."""


MAX_NAME_CHARS = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")
SOURCES = Registry(
    "source",
    {
        "package": "hope_model.convert.package:PackageSource",
        "folder": "hope_model.convert.huggingface:FolderSource",
        "gguf": "hope_model.convert.gguf_model:GgufSource",
    },
)
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


def find_source(reference: str) -> Source:
    """The source that a command line names.

    Raises:
        ConversionError: nothing is there, or nothing that can be converted.
    """
    for kind in SOURCES.values():
        if kind.accepts(reference):
            source: Source = kind(reference)
            return source
    path = local_path(reference)
    if path.suffix in _PICKLES:
        raise ConversionError(f"{reference}: expected safetensors, found a pickle, which is never opened")
    if path.suffix == ".safetensors":
        raise ConversionError(f"{reference}: expected the folder of the model, found one of its files")
    if path.exists():
        raise ConversionError(f"{reference}: expected a model's folder or a .gguf file, found another file")
    raise ConversionError(f"{reference}: expected a folder, a .gguf file or a known model, found none")


def local_path(reference: str) -> Path:
    """The file or folder that a command line names."""
    return Path(os.path.expanduser(reference))


def model_name(text: str) -> str:
    """``text`` as a name that `NAME` takes: other characters are replaced, its end is cut off."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:MAX_NAME_CHARS] or "model"
