"""How the products of a backbone keep their weights: as they are, or quantised when a model is loaded.

What a session learns, the geometry of its writes and the embedding stay as they are. The head is of 8 bits
with either: with 4, KL of SmolLM2's answers is ten times as high.
"""

from pathlib import Path
from typing import Protocol, cast, get_args

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.quantized_linear import GROUP, Bits, Int4Linear, Int8Linear, works
from hope_model.attention.config import BackboneConfig
from hope_model.errors import QuantizeError

KINDS = ("none", *get_args(Bits))
"""What can be asked for."""


class MakeLinear(Protocol):
    def __call__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        backward: bool = False,
        arena: Arena | None = None,
    ) -> FrozenLinear: ...


def bits_of(kind: str) -> Bits | None:
    """One of :data:`KINDS` as what models take; raises QuantizeError for any other."""
    if kind not in KINDS:
        raise QuantizeError(f"expected one of {', '.join(KINDS)}, found {kind!r}")
    return None if kind == "none" else cast("Bits", kind)


def require_unquantized(folder: Path, quantize: Bits | None) -> None:
    """Raises QuantizeError if a native model, which is in ``folder``, is asked for in few bits."""
    if quantize is not None:
        raise QuantizeError(
            f"expected none for {folder.name}, a native Hope model, found {quantize}: only Hope-Attention "
            "models can be quantised"
        )


def body_linear(quantize: Bits | None) -> MakeLinear:
    """What the blocks multiply with."""
    made: dict[Bits | None, MakeLinear] = {None: PackedLinear, "int8": Int8Linear, "int4": Int4Linear}
    return made[quantize]


def head_linear(quantize: Bits | None) -> MakeLinear:
    """What the head multiplies with."""
    return PackedLinear if quantize is None else Int8Linear


def require_quantizable(config: BackboneConfig, quantize: Bits, embedding: Tensor, *, compiled: bool) -> None:
    """Raises QuantizeError if the products cannot be had here, or not for such a model; ``compiled`` ones
    need nothing of PyTorch.
    """
    if embedding.dtype is not torch.bfloat16 or embedding.device.type != "cpu":
        found = f"{embedding.dtype} on {embedding.device.type}"
        raise QuantizeError(f"{quantize}: expected bfloat16 weights on a CPU, found {found}")
    if not compiled and not all(map(works, {quantize, "int8"})):
        raise QuantizeError(
            f"{quantize}: expected a PyTorch whose products with such weights are right on this CPU, found "
            f"{torch.__version__} with {torch.backends.cpu.get_cpu_capability()}, where they are not"
        )
    widths = {
        "width": config.width,
        "heads x head_width": config.heads * config.head_width,
        "mlp_width": config.mlp_width,
    }
    for name, width in widths.items():
        if quantize == "int4" and width % GROUP:
            raise QuantizeError(f"int4: expected {name} to be a multiple of {GROUP}, found {width}")
