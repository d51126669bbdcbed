"""φ rule ``deltanet``: the delta rule (E33)."""

import torch
from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.guards import l2_normalize
from hope_model.rules.heads import HeadInputs, HeadOutput, HeadRate
from hope_model.rules.matrix import MatrixRule, Terms
from hope_model.state import State, TensorSpec


class DeltaNetRule(MatrixRule):
    """``M_t = M_{t-1} + β_t (v_t - M_{t-1} k_t) k_tᵀ``, ``o_t = M_t q_t``: one step of descent on
    ``½ |M k - v|²`` with unit keys and ``β = σ(W_β x)``.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.inputs = HeadInputs(config)
        self.rate = HeadRate(config)
        self.output = HeadOutput(config, gated=False)

    def input_spec(self) -> tuple[TensorSpec, ...]:
        return (self.inputs.spec("phi"),)

    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        q, k, v, window = self.inputs(x, state["window"])
        q, k, rate = l2_normalize(q), l2_normalize(k), self.rate(x)[..., None]
        terms = Terms(q=q, k=k, w=rate * v, log_alpha=torch.zeros_like(rate[..., 0]), a=-rate * k)
        return terms, {"window": window}, x
