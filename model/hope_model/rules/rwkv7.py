"""φ rule ``rwkv7``: the generalised delta rule of RWKV-7, with a decay per channel (E36)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.config import HopeConfig
from hope_model.errors import ConfigError
from hope_model.guards import l2_normalize
from hope_model.rules.heads import join_heads, split_heads
from hope_model.rules.matrix import MatrixRule, Terms
from hope_model.state import State, TensorSpec

SLOWEST_LOG_DECAY = -0.6065306597126334
"""``-exp(-1/2)``: the strongest decay of a channel is ``exp`` of it."""
MAX_CHUNK = 128
"""Beyond it the factors of a chunk's decay leave the range of fp32."""
INPUTS = ("receptance", "decay", "key", "value", "rate", "gate")


class Rwkv7Rule(MatrixRule):
    """``M_t = M_{t-1} diag(w_t) - (M_{t-1} κ_t)(κ_t ⊙ a_t)ᵀ + v_t k_tᵀ``, ``o_t = M_t r_t``.

    ``κ = unit(k ⊙ ξ)`` is the key that is erased, ``a = σ(.)`` how much of it per channel,
    ``w = exp(-exp(-1/2) σ(.))``, and ``k`` is written as ``k ⊙ (1 + (a - 1) ⊙ ρ)``. Every input is a mix of
    the token and the one before. The output is group-normalised, ``(r · (k ⊙ u)) v`` is added, and it is
    gated. Values of the first layer are not mixed into later ones: blocks share the residual stream alone.
    """

    output: nn.Linear

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        if config.chunk > MAX_CHUNK:
            raise ConfigError(f"chunk: rule 'rwkv7' expected at most {MAX_CHUNK}, found {config.chunk}")
        width, heads, head = config.width, config.heads, config.head_width
        rank = max(4, width // 8)
        self.mix = nn.Parameter(torch.linspace(0.2, 0.8, len(INPUTS))[:, None].repeat(1, width))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.decay_in = nn.Linear(width, rank, bias=False)
        self.decay_out = nn.Linear(rank, width)
        self.rate_in = nn.Linear(width, rank, bias=False)
        self.rate_out = nn.Linear(rank, width)
        self.gate_in = nn.Linear(width, rank, bias=False)
        self.gate_out = nn.Linear(rank, width, bias=False)
        self.erase_scale = nn.Parameter(torch.full((width,), 0.71))
        self.rate_share = nn.Parameter(torch.ones(width))
        self.bonus = nn.Parameter(torch.full((heads, head), -0.04))
        self.gain = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))
        self.output = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.decay_out.bias.copy_(torch.linspace(-5.5, 0.5, width))

    def input_spec(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("last_input", "phi", (self.config.width,)),)

    def terms(self, x: Tensor, state: State) -> tuple[Terms, State, Tensor]:
        kind, heads = state["matrix"].dtype, self.config.heads
        mixed = dict(zip(INPUTS, self._mixed(x, state["last_input"]), strict=True))
        log_decay = SLOWEST_LOG_DECAY * torch.sigmoid(
            self.decay_out(torch.tanh(self.decay_in(mixed["decay"]))).to(kind)
        )
        rate = torch.sigmoid(self.rate_out(self.rate_in(mixed["rate"])).to(kind))
        k = self.key(mixed["key"]).to(kind)
        erased = l2_normalize(split_heads(k * self.erase_scale, heads))
        k = k * (1 + (rate - 1) * self.rate_share)
        r, v = self.receptance(mixed["receptance"]).to(kind), self.value(mixed["value"]).to(kind)
        terms = Terms(
            q=split_heads(r, heads),
            k=split_heads(k, heads),
            w=split_heads(v, heads),
            log_alpha=split_heads(log_decay, heads),
            a=-erased,
            b=erased * split_heads(rate, heads),
        )
        return terms, {"last_input": x[:, -1].to(kind, copy=True)}, mixed["gate"]

    def emit(self, read: Tensor, source: Tensor, terms: Terms) -> Tensor:
        head = self.config.head_width
        normed = F.layer_norm(read, (head,), eps=1e-5 * head)
        bonus = (terms.q * terms.k * self.bonus[:, None]).sum(-1, keepdim=True) * terms.w
        out = join_heads(normed) * self.gain + self.shift + join_heads(bonus)
        gate = self.gate_out(torch.sigmoid(self.gate_in(source)))
        y: Tensor = self.output(out * gate.to(out.dtype))
        return y

    def _mixed(self, x: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        """``x_t + μ (x_{t-1} - x_t)`` for each input's ``μ``."""
        before = torch.cat((last[:, None].to(x.dtype), x[:, :-1]), dim=1)
        return tuple(torch.addcmul(x, before - x, mix.to(x.dtype)) for mix in self.mix)
