"""φ rule ``retnet``: retention with a constant decay per head (E31)."""

import torch
from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.rules.heads import HeadOutput, split_heads
from hope_model.rules.matrix import MatrixRule, Terms
from hope_model.rules.rotary import Rotary
from hope_model.state import State, TensorSpec


class RetNetRule(MatrixRule):
    """``M_t = γ_h M_{t-1} + v_t k_tᵀ``, ``γ_h = 1 - 2^(-5-h)``; ``o_t = M_t q_t / sqrt(K)``.

    Queries and keys are turned by their position, so that a score depends on the distance; the output is
    normalised per head and gated. The objective is the dot product: nothing is corrected.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.rotary = Rotary(config)
        self.inputs = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = HeadOutput(config, gated=True)

    def input_spec(self) -> tuple[TensorSpec, ...]:
        return (self.rotary.spec("phi"),)

    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        kind = state["matrix"].dtype
        q, k, v = (split_heads(part, self.config.heads) for part in self.inputs(x).to(kind).chunk(3, dim=-1))
        turn, seen = self.rotary(state["seen"], x.shape[1], kind)
        q, k = turn(q) * self.config.head_width**-0.5, turn(k)
        return Terms(q=q, k=k, w=v, log_alpha=self._log_decay(q)), {"seen": seen}, x

    def _log_decay(self, like: Tensor) -> Tensor:
        exponents = torch.arange(self.config.heads, dtype=like.dtype, device=like.device)
        decay = torch.log1p(-torch.exp2(-5.0 - exponents))
        return decay[None, :, None].expand(like.shape[:3])
