"""A token of all blocks in one call of the compiled kernel, ``hope_kernels.cpu``."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hope_kernels.cpu.decoder import Behind, BlockTensors, Decoder, LevelTensors, Place, Weight, packed_size
from hope_model.config import HopeConfig
from hope_model.decoding.block import BlockRows
from hope_model.decoding.level import LevelRows
from hope_model.decoding.row import Row
from hope_model.hope import Hope
from hope_model.rules.delta import MAX_NORM, MAX_RATE
from hope_model.streaks import Frozen

MOST_HEAD, MOST_KEPT, MOST_LEVEL = 256, 1 << 16, 4096
"""Widths of a head and of a level, and numbers of a chunk's keys, that a thread's stack has room for."""


def fits(config: HopeConfig) -> bool:
    """Whether the kernel takes models of these sizes."""
    head = config.head_width
    return head <= MOST_HEAD and head * config.chunk <= MOST_KEPT and config.cms_width <= MOST_LEVEL


class CompiledPath:
    """See ``hope_model.decoding.paths``. Raises BuildError where there is no compiler."""

    def __init__(self, model: Hope, blocks: Sequence[BlockRows], dtype: torch.dtype | None) -> None:
        config, self._blocks = model.config, blocks
        self._decoder = Decoder(
            [_block(block) for block in blocks],
            model.embedding.weight.detach().contiguous(),
            model.norm.gain.detach(),
            sizes={
                "width": config.width,
                "heads": config.heads,
                "conv": config.conv_width,
                "run": blocks[0].phi.run,
                "chunk": config.chunk,
                "hidden": config.mlp_width,
                "vocab": config.vocab_size,
                "layers": config.layers,
                "levels": len(config.levels),
            },
            scale=math.sqrt(config.width),
            max_rate=MAX_RATE,
            max_norm=MAX_NORM,
            bf16=dtype is not torch.float32,
        )

    def step(
        self, rows: Sequence[int], tokens: Sequence[int], stand: Sequence[Row]
    ) -> tuple[Tensor, list[bool]]:
        return self._decoder.step([_place(*place) for place in zip(rows, tokens, stand, strict=True)])

    def read(self, row: int, tokens: Sequence[int], stand: Sequence[Row]) -> tuple[Tensor, list[bool]]:
        """Tokens of one row, one after the other, to the bits of so many steps: logits ``[vocab]``,
        and whether each token's writes of φ are finite. Only runs may end before the last.
        """
        return self._decoder.read([_place(row, token, own) for token, own in zip(tokens, stand, strict=True)])

    def end_runs(self, ends: Sequence[Behind]) -> None:
        self._decoder.end_runs(ends)

    def end_chunks(self, ends: Sequence[Behind]) -> list[bool]:
        return self._decoder.end_chunks(ends)

    def pending(self, layer: int, row: int, chunk: int) -> Tensor:
        like = self._blocks[layer].phi.slabs["pending"][row : row + 1]
        return self._decoder.pending(layer, row, chunk, like) if chunk else like.clone()

    def sum_gradients(self, level: int, ends: Sequence[Behind]) -> None:
        self._decoder.sum_gradients(level, ends)

    def take_rows(self, rows: Sequence[int]) -> None:
        self._decoder.pack_rows(rows)

    def take_level(self, level: int, rows: Sequence[int]) -> None:
        self._decoder.pack_level(level, rows)

    @staticmethod
    def row_bytes(model: Hope) -> int:
        """Of what a row's tokens read in bf16, beside the slabs."""
        config = model.config
        head, level = config.head_width, config.cms_width
        numbers = config.heads * (
            packed_size(head, head, bf16=True) + packed_size(2 * head + 2, head, bf16=True)
        ) + len(config.levels) * packed_size(level, level, bf16=True)
        return 4 * config.layers * numbers


def _place(row: int, token: int, own: Row) -> Place:
    return Place(row, token, own.run, own.chunk, own.kept, own.frozen is Frozen.NO)


def _block(rows: BlockRows) -> BlockTensors:
    block, rule = rows.block, rows.phi.rule
    weights = {
        "phi_gain": block.phi_norm.gain,
        "mlp_gain": block.mlp_norm.gain,
        "output_gain": rule.output_gain,
        "taps": rule.convolution.taps,
        "rate_bias": rule.rate_bias,
        "retention_bias": rule.retention_bias,
        "projections": rule.projections_initial,
        "maps_initial": rows.phi.maps_initial,
        "slow_rate": torch.sigmoid(rule.projection_rate),
        "retention": torch.sigmoid(rule.projection_retention),
    }
    products = {
        "in_gate": _below(rule.inputs, rule.gate),
        "query": _below(rule.query),
        "output": _below(rule.output),
        "expand": _below(block.mlp.expand),
        "contract": _below(block.mlp.contract),
    }
    return BlockTensors(
        products,
        {"memory": rule.memory_initial.detach(), "maps": rows.phi.maps_initial},
        {name: tensor.detach().contiguous() for name, tensor in weights.items()},
        rows.phi.slabs,
        [_level(level) for level in rows.levels],
    )


def _level(rows: LevelRows) -> LevelTensors:
    level = rows.level
    return LevelTensors(
        terms=_below(level.key, level.value, level.rate),
        output=_below(level.output),
        gain=level.norm.gain.detach(),
        base=level.base.detach(),
        slabs={name: rows.slabs[name] for name in ("delta", "last", "kept", "gradient")},
        keeps=rows.keeps,
    )


def _below(*layers: nn.Linear) -> Weight:
    """Maps of one input as one, one below the other."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    if all(layer.bias is None for layer in layers):
        return weight, None
    biases = [
        torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach() for layer in layers
    ]
    return weight, torch.cat(biases)
