"""φ rule ``gated_deltanet``: the delta rule on a memory that decays by choice (E34)."""

from torch import Tensor

from hope_model.config import HopeConfig
from hope_model.guards import l2_normalize
from hope_model.rules.heads import HeadDecay, HeadInputs, HeadOutput, HeadRate
from hope_model.rules.matrix import MatrixRule, Terms
from hope_model.state import State, TensorSpec


class GatedDeltaNetRule(MatrixRule):
    """``M' = α_t M_{t-1}``, ``M_t = M' + β_t (v_t - M' k_t) k_tᵀ``, ``o_t = M_t q_t``; unit keys,
    ``α = exp(-exp(a) softplus(W_α x + d))``, ``β = σ(W_β x)``, a gated output.
    """

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        self.inputs = HeadInputs(config)
        self.rate = HeadRate(config)
        self.decay = HeadDecay(config)
        self.output = HeadOutput(config, gated=True)

    def input_spec(self) -> tuple[TensorSpec, ...]:
        return (self.inputs.spec("phi"),)

    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        q, k, v, window = self.inputs(x, state["window"])
        q, k, rate, log_alpha = l2_normalize(q), l2_normalize(k), self.rate(x)[..., None], self.decay(x)
        erase = -(rate * log_alpha.exp()[..., None]) * k
        return Terms(q=q, k=k, w=rate * v, log_alpha=log_alpha, a=erase), {"window": window}, x
