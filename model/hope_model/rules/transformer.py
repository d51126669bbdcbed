"""φ rule ``transformer``: softmax attention, the memory that keeps every pair (E37)."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.rules.base import MemoryRule
from hope_model.rules.options import Option
from hope_model.rules.window import WindowAttention
from hope_model.state import LevelSpec, State, TensorSpec


class TransformerRule(MemoryRule):
    """``o_t = Σ_s softmax_s(q_t · k_s / sqrt(K)) v_s`` over the session's last ``capacity`` tokens, rotary
    positions: Transformer++ with the blocks' own SwiGLU and RMSNorm.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "capacity": Option(1024, "tokens that a session keeps; the oldest are forgotten when it is full")
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.attention = WindowAttention(config, int(self.options["capacity"]))

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1),)

    @property
    def phase_period(self) -> int:
        return 1

    def spec(self) -> tuple[TensorSpec, ...]:
        return self.attention.spec("phi")

    def reference_norms(self) -> dict[str, Tensor]:
        """Of one pair of unit keys and values a head, since there is none at the start."""
        return {"phi": self.norm_of_units(2 * self.config.heads)}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": self.attention.drift_tensors()}

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        y, after, wrote = self.attention(x[:, None], state)
        return y[:, 0], after, {"phi": wrote}

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        y, after, wrote = self.attention(x, state)
        return y, after, {"phi": wrote}
