"""A tiny Hope-Attention model with random weights, and sessions that read the same tokens in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from hope_model.attention.backbone import tensor_shapes
from hope_model.attention.config import BackboneConfig, HopeAttentionConfig, MemoryConfig, MemoryLevel
from hope_model.attention.memory import CANARY_START, CANARY_TOKENS, memory_shapes
from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import SessionRows
from hope_model.state import State

VOCAB = 61
BLOCK, WINDOW, PREFIX, PERIOD, DELAY = 256, 128, 37, 64, 64
USABLE = BLOCK + DELAY
"""Where the first boundary's state becomes worth storing."""


def backbone_config(**changes: Any) -> BackboneConfig:
    """No two widths are equal, except those that must be."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "width": 32,
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 10,
        "mlp_width": 44,
    }
    return BackboneConfig(**{**sizes, **changes})


def level(**changes: Any) -> MemoryLevel:
    fields: dict[str, Any] = {
        "name": "fast",
        "period": PERIOD,
        "first_layer": 1,
        "last_layer": 2,
        "rank": 2,
        "rounds": 2,
        "round_length": 0.15,
        "retention": 1.0,
        "max_norm": 0.5,
    }
    return MemoryLevel(**{**fields, **changes})


def memory_config(*levels: MemoryLevel, **changes: Any) -> MemoryConfig:
    fields: dict[str, Any] = {
        "window": WINDOW,
        "prefix": PREFIX,
        "block": BLOCK,
        "delay": DELAY,
        "rows": 32,
        "shortlist": 8,
        "canary": 10.0,
        "max_divergence": 10.0,
    }
    return MemoryConfig(levels or (level(),), **{**fields, **changes})


def config(*levels: MemoryLevel, **changes: Any) -> HopeAttentionConfig:
    return HopeAttentionConfig("tiny", backbone_config(), memory_config(*levels, **changes))


def random_weights(config: HopeAttentionConfig) -> dict[str, Tensor]:
    """Of a checkpoint: no tensor is zero."""
    make = torch.Generator().manual_seed(3)
    weights: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(config.backbone).items():
        values = torch.randn(shape, generator=make)
        spread = 0.5 if name.endswith("bias") else shape[-1] ** -0.5
        weights[name] = 1 + 0.2 * values if "norm" in name else spread * values
    weights["model.embed_tokens.weight"] *= 3
    return weights | memory_constants(config)


def memory_constants(config: HopeAttentionConfig) -> dict[str, Tensor]:
    """Random ones: moments are symmetric and positive, subspaces orthonormal, two canary texts."""
    make = torch.Generator().manual_seed(4)
    constants: dict[str, Tensor] = {}
    for name, shape in memory_shapes(config).items():
        if name == CANARY_TOKENS:
            constants[name] = _canary_texts(shape, make)
        elif name == CANARY_START:
            constants[name] = torch.full(shape, 5.0)
        else:
            constants[name] = _constant(name, torch.randn(shape[0], shape[-1], generator=make))
    return constants


def _canary_texts(shape: tuple[int, ...], make: torch.Generator) -> Tensor:
    """Two short ones; the others are empty."""
    texts = torch.full(shape, -1.0)
    for row, length in enumerate((20, 33)):
        texts[row, :length] = torch.randint(VOCAB, (length,), generator=make).float()
    return texts


def _constant(name: str, values: Tensor) -> Tensor:
    if name.endswith("subspace"):
        basis: Tensor = torch.linalg.qr(values.T).Q
        return basis.T.contiguous()
    return 0.2 * (values @ values.T / len(values) + 0.1 * torch.eye(len(values)))


@torch.inference_mode(False)
def build(
    config: HopeAttentionConfig, dtype: torch.dtype = torch.bfloat16, *, compiled: bool = True
) -> HopeAttention:
    return HopeAttention(config, random_weights(config), dtype=dtype, compiled=compiled)


@cache
def tiny_model(dtype: torch.dtype = torch.bfloat16, *, compiled: bool = True) -> HopeAttention:
    """One for all tests, which must not change it; ``compiled`` where this machine has a compiler."""
    return build(config(), dtype, compiled=compiled)


BOTH_WAYS = pytest.mark.parametrize(
    "compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["compiled", "torch"]
)


@dataclass(frozen=True)
class Text:
    """What a session reads."""

    tokens: tuple[int, ...]
    origins: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def with_origins(self, *origins: str) -> Text:
        """The same tokens; the last of ``origins`` is that of all that follow."""
        more = origins[-1:] * (len(self) - len(origins))
        return replace(self, origins=(*origins, *more))


def text(tokens: int, seed: int = 0) -> Text:
    """Twenty pinned tokens, then a user's, every fourth run of 16 the model's own."""
    make = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (tokens,), generator=make).tolist()
    origins = ["system"] * 17 + ["template"] * 3
    origins += ["model" if place // 16 % 4 == 3 else "user" for place in range(20, tokens)]
    return Text(tuple(ids), tuple(origins[:tokens]))


class Sessions:
    """Rows of one model that read texts; keeps every boundary's state and the last logits.

    boundaries: by row, the states by position. logits: by row, after its last token.
    """

    def __init__(self, model: HopeAttention, *texts: Text, learn: bool = True) -> None:
        self.texts = texts
        self.boundaries: list[dict[int, State]] = [{} for _ in texts]
        self.logits: list[Tensor] = [torch.zeros(model.config.vocab_size) for _ in texts]
        self.rows = SessionRows(model, len(texts), learn=learn, on_boundary=self._keep)

    def _keep(self, row: int, position: int, state: State) -> None:
        assert position not in self.boundaries[row], "a boundary was given twice"
        assert self.rows.position(row) == position + self.rows.model.config.memory.delay
        self.boundaries[row][position] = state

    def left(self, row: int) -> int:
        """Tokens of its text that the row has not read."""
        return len(self.texts[row]) - self.rows.position(row)

    def read(self, row: int, tokens: int, *, settle: bool = False) -> None:
        """Read ``tokens`` more, in the longest runs that may be; ``settle`` works off all that begins."""
        while tokens:
            start = self.rows.position(row)
            count = min(tokens, self.rows.room(row), self.left(row))
            part = slice(start, start + count)
            it = self.texts[row]
            self.logits[row] = self.rows.read(row, it.tokens[part], it.origins[part])
            tokens -= count
            if settle:
                self.rows.settle(row)

    def decode(self, rows: Sequence[int]) -> None:
        """The next token of each of ``rows``, which have the same origin, in one launch."""
        places = [self.rows.position(row) for row in rows]
        tokens = [self.texts[row].tokens[place] for row, place in zip(rows, places, strict=True)]
        origins = {self.texts[row].origins[place] for row, place in zip(rows, places, strict=True)}
        (origin,) = origins
        for row, logits in zip(rows, self.rows.decode(rows, tokens, origin), strict=True):
            self.logits[row] = logits

    def origin(self, row: int) -> str:
        """Of the next token."""
        return self.texts[row].origins[self.rows.position(row)]


def alone(model: HopeAttention, text: Text, *, learn: bool = True, settle: bool = True) -> Sessions:
    """A session that has read a text in the plainest way."""
    sessions = Sessions(model, text, learn=learn)
    sessions.read(0, len(text), settle=settle)
    return sessions


def writes_of(rows: SessionRows, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Those that were applied and those that were refused, by level."""
    return rows.counters([row])[0][:2]


def deltas_of(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.endswith(".delta")}


def as_deltas(model: HopeAttention, state: State) -> dict[str, Tensor]:
    """What a state has learned, as the model reads it."""
    return {
        name.removesuffix(".delta"): tensor.to(model.backbone.dtype)
        for name, tensor in deltas_of(state).items()
    }
