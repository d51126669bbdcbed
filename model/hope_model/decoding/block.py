"""One block's part of every row, and what of a model decoding takes."""

from collections.abc import Iterator

from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.packed_linear import can_pack
from hope_model.aggregations.chain import Chain
from hope_model.block import HopeBlock
from hope_model.cms import AssociativeLevel
from hope_model.decoding.level import LevelRows
from hope_model.decoding.phi import PhiRows
from hope_model.hope import Hope
from hope_model.rules.delta import DeltaRule


class BlockRows:
    """``rows`` states of ``block``, in ``arena``."""

    def __init__(self, block: HopeBlock, rows: int, arena: Arena) -> None:
        assert isinstance(block.phi, DeltaRule)
        self.block = block
        self.phi = PhiRows(block.phi, rows, arena)
        self.levels = [LevelRows(level, rows, arena) for level in levels_of(block)]

    def slabs(self) -> Iterator[Tensor]:
        """Every tensor with a row axis."""
        yield from self.phi.slabs.values()
        for level in self.levels:
            yield from level.slabs.values()


def blocks_of(model: Hope) -> Iterator[HopeBlock]:
    """As what they are."""
    for block in model.blocks:
        assert isinstance(block, HopeBlock)
        yield block


def levels_of(block: HopeBlock) -> Iterator[AssociativeLevel]:
    """As what they are."""
    for level in block.levels:
        assert isinstance(level, AssociativeLevel)
        yield level


def can_decode(model: Hope) -> bool:
    """Whether :class:`DecodeRows` takes ``model``: fp32 on a CPU with packed products, rule ``delta``, levels
    in a chain.
    """
    return (
        can_pack(model.embedding.weight, single=True)
        and model.config.rule == "delta"
        and all(isinstance(block.aggregation, Chain | None) for block in blocks_of(model))
    )
