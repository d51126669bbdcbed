"""φ rule ``samba``: a selective state space, then attention over a sliding window (E37, E38)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.norms import RMSNorm
from hope_model.rules.base import MemoryRule
from hope_model.rules.options import Option
from hope_model.rules.selective import SelectiveStateSpace
from hope_model.rules.window import WindowAttention
from hope_model.state import LevelSpec, State, TensorSpec


class SambaRule(MemoryRule):
    """``s_t = SSM(x)``, ``y_t = s_t + SWA(rms(x + s))_t``: what decays holds the long past in a few numbers,
    the window the last tokens exactly. One layer holds both; the paper gives each an MLP of its own.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "window": Option(256, "tokens that the attention sees"),
        "expand": Option(2, "channels of the state space, in widths of the model"),
        "states": Option(16, "numbers a channel remembers"),
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        inner, states = int(self.options["expand"]) * config.width, int(self.options["states"])
        self.space = SelectiveStateSpace(config, inner=inner, states=states)
        self.norm = RMSNorm(config.width)
        self.attention = WindowAttention(config, int(self.options["window"]))

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1),)

    @property
    def phase_period(self) -> int:
        return self.config.chunk

    def spec(self) -> tuple[TensorSpec, ...]:
        return (*self.space.spec("phi"), *self.attention.spec("phi"))

    def reference_norms(self) -> dict[str, Tensor]:
        """Of one unit write a head, since the state starts at zero."""
        return {"phi": self.norm_of_units(self.config.heads)}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        return {"phi": ("hidden", *self.attention.drift_tensors())}

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        s, after, wrote = self.space.step(x, state, position)
        y, own, applied = self._window(x[:, None], s[:, None], state, wrote)
        return y[:, 0], {**after, **own}, applied

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        s, after, wrote = self.space(x, state, phase)
        y, own, applied = self._window(x, s, state, wrote)
        return y, {**after, **own}, applied

    def _window(
        self, x: Tensor, s: Tensor, state: State, wrote: Tensor
    ) -> tuple[Tensor, State, dict[str, Tensor]]:
        y, own, stored = self.attention(self.norm(x + s), state)
        return s + y, own, {"phi": torch.minimum(wrote, stored)}
