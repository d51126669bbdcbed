"""The tensors of a backbone: their names and shapes, and reading them with checks."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from hope_model.errors import ConversionError

Shape = tuple[int, ...]


def require_shapes(expected: Mapping[str, Shape], found: Mapping[str, Shape], where: str) -> None:
    """Raises ConversionError, naming the first, unless the tensors found are those expected."""
    wrong = [name for name in [*expected, *found] if expected.get(name) != found.get(name)]
    if wrong:
        name = wrong[0]
        raise ConversionError(
            f"{where}: tensor {name!r}: expected {_text(expected.get(name))}, found {_text(found.get(name))}"
        )


class Weights(Mapping[str, Tensor]):
    """A backbone's tensors in ``dtype``, each read from its source whenever it is asked for.

    So no more than one tensor is in memory on behalf of this mapping. Looking one up raises ConversionError
    when it cannot be read, or holds values that are not finite or that ``dtype`` cannot hold.
    """

    def __init__(
        self,
        shapes: Mapping[str, Shape],
        read: Callable[[str, torch.dtype], Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.shapes = dict(shapes)
        self.dtype = dtype
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        tensor = self._read(name, self.dtype)
        if tensor.shape != shape or tensor.dtype != self.dtype:
            raise ConversionError(f"tensor {name!r}: expected {_text(shape)}, found {_text(tensor.shape)}")
        if not bool(torch.isfinite(tensor).all()):
            raise ConversionError(f"tensor {name!r}: expected finite values, found others")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _text(shape: Shape | None) -> str:
    return "no such tensor" if shape is None else f"shape {list(shape)}"
