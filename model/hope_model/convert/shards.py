"""The safetensors files of a Hugging Face folder, as one set of tensors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hope_model.convert.files import parse_object, read_text
from hope_model.convert.tensors import Shape
from hope_model.errors import ConversionError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
_FLOATING = {"F64", "F32", "F16", "BF16"}


class Shards:
    """Tensors by name, each in the one file that holds it.

    shapes: of every tensor found.
    """

    def __init__(self, folder: Path) -> None:
        """Open what the folder has.

        Raises:
            ConversionError: a file is missing, truncated or not safetensors, or holds a tensor that another
                one holds too, or tensors that are not floating point. Which file the index gives a tensor
                does not matter.
        """
        self.files = _files(folder)
        self.shapes: dict[str, Shape] = {}
        self._file_of: dict[str, Path] = {}
        for path in self.files:
            for name, shape in _shapes(path).items():
                if name in self._file_of:
                    raise ConversionError(f"{path}: tensor {name!r} is also in {self._file_of[name].name}")
                self._file_of[name] = path
                self.shapes[name] = shape

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy: what the library gives may be the file's own memory."""
        path = self._file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"{path}: cannot be read: {error}") from error
        return tensor.to(dtype, copy=True)


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if any(path.suffix in (".bin", ".pt", ".pth") for path in folder.iterdir()):
        raise ConversionError(f"{folder}: expected safetensors, found pickles, which are never opened")
    raise ConversionError(f"{folder}: expected {SINGLE} or {INDEX}, found neither")


def _indexed(folder: Path) -> list[Path]:
    index: Mapping[str, object] = parse_object(read_text(folder / INDEX, MAX_INDEX_BYTES), INDEX)
    by_tensor = index.get("weight_map")
    if not isinstance(by_tensor, dict) or not by_tensor:
        raise ConversionError(f"{INDEX}: weight_map: expected files by tensor, found {str(by_tensor)[:80]!r}")
    paths = []
    for name in sorted({str(name) for name in by_tensor.values()}):
        # Only files of the folder itself, whatever the index says.
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise ConversionError(f"{INDEX}: weight_map: expected names of safetensors, found {name[:80]!r}")
        if not (folder / name).is_file():
            raise ConversionError(f"{folder / name}: the index names this file, but it is missing")
        paths.append(folder / name)
    return paths


def _shapes(path: Path) -> dict[str, Shape]:
    shapes = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if part.get_dtype() not in _FLOATING:
                    raise ConversionError(
                        f"{path}: tensor {name!r}: expected floating point, found {part.get_dtype()}"
                    )
                shapes[name] = tuple(part.get_shape())
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{path}: cannot be read: {error}") from error
    return shapes
