"""Each system's rule against its published recurrence, written out token by token and head by head."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.model.small import Parts, assert_close, build, small_config
from torch import Tensor
from torch.nn import functional as F

from hope_model.rules.base import MemoryRule
from hope_model.rules.comba import CombaRule
from hope_model.rules.deltanet import DeltaNetRule
from hope_model.rules.gated_deltanet import GatedDeltaNetRule
from hope_model.rules.heads import join_heads, split_heads
from hope_model.rules.retnet import RetNetRule
from hope_model.rules.rwkv7 import Rwkv7Rule
from hope_model.rules.samba import SambaRule
from hope_model.rules.transformer import TransformerRule
from hope_model.state import State

HEADS, HEAD, WIDTH, TOKENS = 2, 8, 16, 21


def _rule(name: str, **options: Any) -> Any:
    block = build(small_config(Parts(rule=name), rule_options=options)).blocks[0]
    assert isinstance(block.phi, MemoryRule)
    return block.phi


def _inputs() -> Tensor:
    return torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)


def _state(rule: MemoryRule) -> State:
    """Random memories, and a count of tokens that says how many the session has read."""
    state = {spec.name: torch.zeros(1, *spec.shape, dtype=spec.dtype) for spec in rule.spec()}
    return {
        name: 0.3 * torch.randn_like(tensor, dtype=torch.float64)
        if tensor.is_floating_point()
        else tensor + 5
        for name, tensor in state.items()
    }


def _unit(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _delta_parts(rule: Any, x: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Unit queries, unit keys and values ``[H, T, K]``, the convolution written out."""
    past = torch.cat((state["window"][0], x[0] @ rule.inputs.inputs.weight.T))
    taps = rule.inputs.convolution.taps
    inner = torch.stack([F.silu(sum(taps[j] * past[t + j] for j in range(len(taps)))) for t in range(TOKENS)])
    q, k, v = (part.unflatten(-1, (HEADS, HEAD)).transpose(0, 1) for part in inner.chunk(3, dim=-1))
    return _unit(q), _unit(k), v


def _emitted(rule: Any, reads: Tensor, x: Tensor) -> Tensor:
    """``reads [H, T, V]``, normalised per head, gated where the rule has a gate."""
    normed = reads / torch.sqrt(reads.square().mean(-1, keepdim=True) + 1e-6)
    out = normed.transpose(0, 1).flatten(1) * rule.output.gain
    if rule.output.gate is not None:
        out = out * F.silu(x[0] @ rule.output.gate.weight.T)
    emitted: Tensor = out @ rule.output.output.weight.T
    return emitted


def _decay(rule: Any, x: Tensor) -> Tensor:
    """``exp(-exp(A) softplus(.))``, ``[H, T]``."""
    step = F.softplus(x[0] @ rule.decay.decay.weight.T + rule.decay.rate_bias)
    return torch.exp(-rule.decay.log_rate.exp() * step).T


def test_retnet() -> None:
    """``S = γ S + k vᵀ`` is, unrolled, a decayed score of turned queries and keys: its parallel form."""
    rule: RetNetRule = _rule("retnet")
    x, state = _inputs(), _state(rule)
    y, after, _ = rule(x, state, 5)
    q, k, v = (x[0] @ rule.inputs.weight.T).unflatten(-1, (3, HEADS, HEAD)).permute(1, 2, 0, 3)
    angle = (5 + torch.arange(TOKENS).double())[:, None] * 10000.0 ** (
        -torch.arange(0, HEAD, 2).double() / HEAD
    )
    turned = []
    for part in (q, k):
        pairs = torch.complex(part[..., : HEAD // 2], part[..., HEAD // 2 :]) * torch.exp(1j * angle)
        turned.append(torch.cat((pairs.real, pairs.imag), dim=-1))
    q, k = turned[0] / math.sqrt(HEAD), turned[1]
    reads = []
    for h in range(HEADS):
        gamma, memory = 1 - 2.0 ** (-5 - h), state["matrix"][0, h]
        apart = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
        scores = (q[h] @ k[h].T) * torch.where(apart >= 0, gamma ** apart.clamp_min(0).double(), 0.0)
        past = gamma ** (1 + torch.arange(TOKENS).double())
        reads.append(scores @ v[h] + past[:, None] * (q[h] @ memory.T))
    assert_close(y[0], _emitted(rule, torch.stack(reads), x))
    assert after["seen"].tolist() == [5 + TOKENS]


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet", "comba"])
def test_delta_rules(name: str) -> None:
    """``S' = α S``, ``S = S' + β (v - S' p) kᵀ``, read with what corrects the query."""
    rule: DeltaNetRule | GatedDeltaNetRule | CombaRule = _rule(name)
    x, state = _inputs(), _state(rule)
    y, after, _ = rule(x, state, 3)
    q, k, v = _delta_parts(rule, x, state)
    beta = torch.sigmoid(x[0] @ rule.rate.rate.weight.T + rule.rate.rate_bias).T
    alpha = torch.ones_like(beta) if isinstance(rule, DeltaNetRule) else _decay(rule, x)
    reads = []
    for h in range(HEADS):
        memory = state["matrix"][0, h]
        p, q_h = k[h], q[h]
        if isinstance(rule, CombaRule):
            p = torch.sigmoid(rule.feedback[h]) * k[h]
            q_h = q[h] - rule.correction[h] * p
        for t in range(TOKENS):
            memory = alpha[h, t] * memory
            memory = memory + beta[h, t] * (v[h, t] - memory @ p[t]).outer(k[h, t])
            reads.append(memory @ q_h[t])
        assert_close(after["matrix"][0, h], memory)
    assert_close(y[0], _emitted(rule, torch.stack(reads).view(HEADS, TOKENS, HEAD), x))


def test_rwkv7() -> None:
    """``S = diag(w) S + b (aᵀ S) + k vᵀ``, ``a = -κ``, ``b = κ ⊙ r``; token shift, norm, bonus, gate."""
    rule: Rwkv7Rule = _rule("rwkv7")
    x, state = _inputs(), _state(rule)
    y, after, _ = rule(x, state, 2)
    before = torch.cat((state["last_input"], x[0, :-1]))
    r_in, w_in, k_in, v_in, a_in, g_in = (x[0] + mu * (before - x[0]) for mu in rule.mix)
    lora = torch.tanh(w_in @ rule.decay_in.weight.T) @ rule.decay_out.weight.T + rule.decay_out.bias
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(lora))
    rate = torch.sigmoid(a_in @ rule.rate_in.weight.T @ rule.rate_out.weight.T + rule.rate_out.bias)
    key = k_in @ rule.key.weight.T
    kappa = _unit((key * rule.erase_scale).unflatten(-1, (HEADS, HEAD)))
    k = (key * (1 + (rate - 1) * rule.rate_share)).unflatten(-1, (HEADS, HEAD))
    r = (r_in @ rule.receptance.weight.T).unflatten(-1, (HEADS, HEAD))
    v = (v_in @ rule.value.weight.T).unflatten(-1, (HEADS, HEAD))
    w, rate = (part.unflatten(-1, (HEADS, HEAD)) for part in (w, rate))
    outputs = []
    for h in range(HEADS):
        memory = state["matrix"][0, h].T  # as published: keys by values
        own = []
        for t in range(TOKENS):
            read = -kappa[t, h] @ memory
            memory = (
                w[t, h][:, None] * memory + (kappa[t, h] * rate[t, h]).outer(read) + k[t, h].outer(v[t, h])
            )
            own.append(r[t, h] @ memory)
        assert_close(after["matrix"][0, h], memory.T)
        raw = torch.stack(own)
        normed = (raw - raw.mean(-1, keepdim=True)) / torch.sqrt(
            raw.var(-1, correction=0, keepdim=True) + 8e-5
        )
        channels = slice(h * HEAD, (h + 1) * HEAD)
        bonus = (r[:, h] * k[:, h] * rule.bonus[h]).sum(-1, keepdim=True) * v[:, h]
        outputs.append(normed * rule.gain[channels] + rule.shift[channels] + bonus)
    gate = torch.sigmoid(g_in @ rule.gate_in.weight.T) @ rule.gate_out.weight.T
    assert_close(y[0], (torch.cat(outputs, dim=-1) * gate) @ rule.output.weight.T)


@pytest.mark.parametrize("capacity", [3, 16, 64])
def test_transformer(capacity: int) -> None:
    """PyTorch's own attention over the last tokens, however few a call brings, wherever the ring stands."""
    rule: TransformerRule = _rule("transformer", capacity=capacity)
    x = torch.randn(1, 40, WIDTH, dtype=torch.float64)
    state = {spec.name: torch.zeros(1, *spec.shape, dtype=spec.dtype) for spec in rule.spec()}
    state = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    outputs = []
    for part in x.split([7, 1, 20, 12], dim=1):
        y, state, _ = rule(part, state, 0)
        outputs.append(y)
    attention = rule.attention
    q, k, v = (split_heads(p, HEADS) for p in (x @ attention.inputs.weight.T).chunk(3, dim=-1))
    turn, _ = attention.rotary(torch.zeros(1, dtype=torch.int64), 40, torch.float64)
    apart = torch.arange(40)[:, None] - torch.arange(40)
    sees = (apart >= 0) & (apart < capacity)
    expected = F.scaled_dot_product_attention(turn(q), turn(k), v, attn_mask=sees)
    assert_close(torch.cat(outputs, dim=1), join_heads(expected) @ attention.output.weight.T)


def test_positions_are_relative() -> None:
    """A session that reads the same after 1,000 other tokens than the window holds answers the same."""
    rule: TransformerRule = _rule("transformer", capacity=4)
    x = torch.randn(1, 12, WIDTH, dtype=torch.float64)
    state = {spec.name: torch.zeros(1, *spec.shape, dtype=spec.dtype) for spec in rule.spec()}
    state = {name: t.double() if t.is_floating_point() else t for name, t in state.items()}
    later = {**state, "seen": torch.tensor([1000])}
    early, late = rule(x, state, 0)[0], rule(x, later, 0)[0]
    assert_close(late[:, 3:], early[:, 3:])
    assert not torch.isclose(late[:, 0], early[:, 0]).all()  # empty places of the ring are seen as zeros


def test_samba() -> None:
    """``h = exp(δ A) h + δ B u``, ``y = C h + d u``, gated; then attention over a window on what came out."""
    rule: SambaRule = _rule("samba", window=5)
    x, state = _inputs(), _state(rule)
    state["seen"] = torch.zeros_like(state["seen"])
    y, after, _ = rule(x, state, 3)
    space = rule.space
    u_raw, z = (x[0] @ space.inputs.weight.T).chunk(2, dim=-1)
    past, taps = torch.cat((state["window"][0], u_raw)), space.convolution.taps
    u = torch.stack([F.silu((taps * past[t : t + len(taps)]).sum(0)) for t in range(TOKENS)])
    small, b, c = (u @ space.choices.weight.T).split((space.rank, space.states, space.states), dim=-1)
    delta = F.softplus(small @ space.step_size.weight.T + space.step_size.bias)
    hidden, reads = state["hidden"][0], []
    for t in range(TOKENS):
        hidden = torch.exp(delta[t][:, None] * -space.log_a.exp()) * hidden + (delta[t] * u[t]).outer(b[t])
        reads.append(hidden @ c[t] + space.skip * u[t])
    s = (torch.stack(reads) * F.silu(z)) @ space.output.weight.T
    assert_close(after["hidden"][0], hidden)
    mixed = x[0] + s
    mixed = mixed / torch.sqrt(mixed.square().mean(-1, keepdim=True) + 1e-6) * rule.norm.gain
    window, _, _ = rule.attention(mixed[None], state)
    assert_close(y[0], s + window[0])


@pytest.mark.parametrize(("phase", "refused"), [(0, 8), (5, 3)])
def test_a_refused_chunk_of_a_matrix_memory_counts_its_own_tokens(phase: int, refused: int) -> None:
    """The first of three or four chunks, some of which the run cuts short."""
    rule: RetNetRule = _rule("retnet")
    x = _inputs()
    x[0, 1] = torch.nan
    _, after, applied = rule(x, _state(rule), phase)
    assert applied["phi"].tolist() == [TOKENS - refused]
    assert bool(after["matrix"].isfinite().all())


def test_a_pair_that_is_not_finite_is_stored_as_zeros_and_refused() -> None:
    """So that the session's next tokens see numbers."""
    rule: TransformerRule = _rule("transformer", capacity=16)
    x, state = _inputs(), _state(rule)
    x[0, 4] = torch.nan
    _, after, applied = rule(x[:, :5], state, 0)
    assert applied["phi"].tolist() == [4]
    place = (5 + 4) % 16
    assert not after["keys-0"][0, place].any()
    assert not after["values-0"][0, place].any()
    assert bool(rule(x[:, 5:], after, 0)[0].isfinite().all())
