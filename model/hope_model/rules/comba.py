"""φ rule ``comba``: a gated delta rule that erases with a shorter key and corrects its query (E35)."""

import torch
from torch import Tensor, nn

from hope_model.config import HopeConfig
from hope_model.guards import l2_normalize
from hope_model.rules.heads import HeadDecay, HeadInputs, HeadOutput, HeadRate
from hope_model.rules.matrix import MatrixRule, Terms
from hope_model.state import State, TensorSpec


class CombaRule(MatrixRule):
    """``M' = α_t M_{t-1}``, ``M_t = M' + β_t (v_t - M' p_t) k_tᵀ``, ``o_t = M_t (q_t - D_h p_t)`` with
    ``p_t = σ(c_h) k_t``: feedback from the state, and from the input to the output.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.inputs = HeadInputs(config)
        self.rate = HeadRate(config)
        self.decay = HeadDecay(config)
        self.feedback = nn.Parameter(torch.ones(config.heads))
        self.correction = nn.Parameter(torch.ones(config.heads))
        self.output = HeadOutput(config, gated=True)

    def input_spec(self) -> tuple[TensorSpec, ...]:
        return (self.inputs.spec("phi"),)

    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        q, k, v, window = self.inputs(x, state["window"])
        q, k, rate, log_alpha = l2_normalize(q), l2_normalize(k), self.rate(x)[..., None], self.decay(x)
        p = torch.sigmoid(self.feedback)[:, None, None] * k
        q = q - self.correction[:, None, None] * p
        erase = -(rate * log_alpha.exp()[..., None]) * p
        return Terms(q=q, k=k, w=rate * v, log_alpha=log_alpha, a=erase), {"window": window}, x
