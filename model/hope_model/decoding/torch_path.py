"""A token of all blocks in torch's operations, on any machine with packed products."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.decoder import Behind
from hope_kernels.packed_linear import can_pack
from hope_model.decoding.block import BlockRows
from hope_model.decoding.level_step import LevelStep
from hope_model.decoding.phi_step import PhiStep
from hope_model.decoding.row import Row
from hope_model.decoding.weights import Joined, rms, silu
from hope_model.hope import Hope
from hope_model.streaks import Frozen

REFINED = 64
"""Likeliest tokens whose logits are computed in fp32: those of bf16 tie."""


class BlockStep:
    """One block's."""

    def __init__(self, rows: BlockRows, dtype: torch.dtype) -> None:
        block = rows.block
        self.phi = PhiStep(rows.phi, dtype)
        self.levels = [LevelStep(level, dtype) for level in rows.levels]
        self.phi_gain, self._mlp_gain = block.phi_norm.gain.detach(), block.mlp_norm.gain.detach()
        self._expand = Joined(block.mlp.expand, dtype=dtype)
        self._contract = Joined(block.mlp.contract, dtype=dtype)

    def mlp(self, x: Tensor) -> Tensor:
        gate, value = self._expand(rms(x, self._mlp_gain)).chunk(2, dim=-1)
        return self._contract(silu(gate) * value)


class TorchPath:
    """See ``hope_model.decoding.paths``. Computes all rows from the first to the last of a group, since a
    slice of a slab costs no copy; what lies between is not written.
    """

    def __init__(self, model: Hope, blocks: Sequence[BlockRows], dtype: torch.dtype | None) -> None:
        weight = model.embedding.weight.detach()
        if dtype is None:
            dtype = torch.bfloat16 if can_pack(weight.to(torch.bfloat16)) else torch.float32
        self._embedding, self._scale = weight, math.sqrt(model.config.width)
        self._head = Joined(_head(model), dtype=dtype)
        self._gain = model.norm.gain.detach()
        self._rows = blocks
        self._blocks = [BlockStep(block, dtype) for block in blocks]

    def step(
        self, rows: Sequence[int], tokens: Sequence[int], stand: Sequence[Row]
    ) -> tuple[Tensor, list[bool]]:
        logits: list[Tensor] = []
        wrote: list[bool] = []
        start = 0
        for group in spans(rows):
            part = slice(start, start + len(group))
            own, whole = self._step(group, tokens[part], stand[part])
            logits.append(own)
            wrote += whole
            start += len(group)
        return torch.cat(logits) if len(logits) > 1 else logits[0], wrote

    def end_runs(self, ends: Sequence[Behind]) -> None:
        for row, tokens in ends:
            for block in self._rows:
                block.phi.end_run(row, tokens)

    def end_chunks(self, ends: Sequence[Behind]) -> list[bool]:
        finite = [[block.phi.end_chunk(row, tokens) for block in self._rows] for row, tokens in ends]
        return [all(map(bool, own)) for own in finite]

    def pending(self, layer: int, row: int, chunk: int) -> Tensor:
        return self._rows[layer].phi.pending_after(row, chunk)

    def sum_gradients(self, level: int, ends: Sequence[Behind]) -> None:
        for row, tokens in ends:
            for block in self._rows:
                block.levels[level].sum_gradient(row, tokens)

    def take_rows(self, rows: Sequence[int]) -> None:
        """Slabs are read as they are."""

    def take_level(self, level: int, rows: Sequence[int]) -> None:
        """Slabs are read as they are."""

    def _step(
        self, rows: Sequence[int], tokens: Sequence[int], stand: Sequence[Row]
    ) -> tuple[Tensor, list[bool]]:
        first, count = rows[0], rows[-1] + 1 - rows[0]
        span, index = slice(first, first + count), torch.tensor(rows)
        active = index - first
        ids = torch.zeros(count, dtype=torch.int64).index_copy_(0, active, torch.tensor(tokens))
        behind = torch.tensor([[own.run, own.chunk, *own.kept] for own in stand])
        runs, chunks, *kept = behind.unbind(1)
        learns = torch.tensor([own.frozen is Frozen.NO for own in stand])
        x, wrote = F.embedding(ids, self._embedding) * self._scale, []
        for block in self._blocks:
            y, heads = block.phi(rms(x, block.phi_gain), span, active, index, runs, chunks, learns)
            x = x + y
            wrote.append(heads)
            for level, own in zip(block.levels, kept, strict=True):
                x = x + level(x, span, active, index, own)
            x = x + block.mlp(x)
        whole: list[bool] = torch.cat(wrote, dim=1).all(1).tolist()
        return self._logits(x[active]), whole

    def _logits(self, x: Tensor) -> Tensor:
        normed = rms(x, self._gain)
        logits = self._head(normed)
        likely = logits.topk(min(REFINED, logits.shape[-1]), dim=-1).indices
        refined = (F.embedding(likely, self._embedding) * normed[:, None]).sum(-1)
        return logits.scatter(-1, likely, refined)


def spans(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """``rows`` (ascending) in groups that leave out at most as many rows between as they name."""
    if rows[-1] + 1 - rows[0] <= 2 * len(rows):
        yield rows
        return
    gaps = [late - early for early, late in pairwise(rows)]
    cut = gaps.index(max(gaps)) + 1
    yield from spans(rows[:cut])
    yield from spans(rows[cut:])


def _head(model: Hope) -> torch.nn.Linear:
    head = torch.nn.Linear(model.config.width, model.config.vocab_size, bias=False, device="meta")
    head.weight = torch.nn.Parameter(model.embedding.weight.detach(), requires_grad=False)
    return head
