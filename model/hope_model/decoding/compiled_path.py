"""A token of all blocks in one call of the compiled kernel, ``hope_kernels.cpu``."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hope_kernels.cpu.decoder import BlockTensors, Decoder, LevelTensors, Weight
from hope_model.decoding.block import BlockRows
from hope_model.decoding.level import LevelRows
from hope_model.decoding.row import Row
from hope_model.hope import Hope
from hope_model.rules.delta import MAX_RATE
from hope_model.streaks import Frozen


class CompiledPath:
    """See ``hope_model.decoding.paths``. Raises BuildError where there is no compiler."""

    def __init__(self, model: Hope, blocks: Sequence[BlockRows], dtype: torch.dtype | None) -> None:
        config = model.config
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
            bf16=dtype is not torch.float32,
        )

    def step(
        self, rows: Sequence[int], tokens: Sequence[int], stand: Sequence[Row]
    ) -> tuple[Tensor, list[bool]]:
        return self._decoder.step(
            rows,
            tokens,
            [own.run for own in stand],
            [own.chunk for own in stand],
            (own.kept for own in stand),
            [own.frozen is Frozen.NO for own in stand],
        )

    def end_run(self, row: int, run: int) -> None:
        self._decoder.end_run(row, run)

    def sum_gradient(self, level: int, row: int, kept: int) -> None:
        self._decoder.sum_gradient(level, row, kept)


def _block(rows: BlockRows) -> BlockTensors:
    block, rule = rows.block, rows.phi.rule
    weights = {
        "phi_gain": block.phi_norm.gain,
        "mlp_gain": block.mlp_norm.gain,
        "output_gain": rule.output_gain,
        "taps": rule.convolution.taps,
        "base": rule.memory_initial,
        "rate_bias": rule.rate_bias,
        "retention_bias": rule.retention_bias,
    }
    products = {
        "in_gate": _below(rule.inputs, rule.gate),
        "query": _below(rule.query),
        "output": _below(rule.output),
        "expand": _below(block.mlp.expand),
        "contract": _below(block.mlp.contract),
    }
    own = {name: tensor for name, tensor in rows.phi.slabs.items() if name != "pending"}
    return BlockTensors(
        products,
        {name: tensor.detach().contiguous() for name, tensor in weights.items()},
        own,
        [_level(level) for level in rows.levels],
    )


def _level(rows: LevelRows) -> LevelTensors:
    level = rows.level
    return LevelTensors(
        terms=_below(level.key, level.value, level.rate),
        output=_below(level.output),
        gain=level.norm.gain.detach(),
        slabs={name: rows.slabs[name] for name in ("memory", "last", "kept", "gradient")},
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
