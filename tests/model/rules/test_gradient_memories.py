"""E39-E45: closed gradients against autograd, one-token chunks against PyTorch's optimizers, the options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.model.small import (
    Parts,
    assert_close,
    assert_same_state,
    build,
    by_steps,
    random_tokens,
    small_config,
    state_at,
)
from torch import Tensor
from torch.nn import functional as F

from hope_model.errors import ConfigError
from hope_model.guards import l2_normalize
from hope_model.rules import objectives
from hope_model.rules.gradient_memory import GradientMemory, MemoryForm
from hope_model.rules.hope import HopeRule
from hope_model.rules.titans import TitansRule
from hope_model.state import State

HEADS, WIDTH, TOKENS = 2, 6, 4
FORMS = {
    "matrix": MemoryForm(WIDTH, WIDTH),
    "matrix with all": MemoryForm(WIDTH, WIDTH, residual=True, layer_norm=True, bias=True),
    "network": MemoryForm(WIDTH, WIDTH, hidden=5, residual=True),
    "network with all": MemoryForm(WIDTH, WIDTH, hidden=5, residual=True, layer_norm=True, bias=True),
    "number": MemoryForm(WIDTH, 1, hidden=5),
    "softmax": MemoryForm(WIDTH, WIDTH, hidden=5, residual=True, layer_norm=True, weights="softmax"),
    "power": MemoryForm(WIDTH, WIDTH, hidden=5, residual=True, layer_norm=True, weights="power"),
}


def _network(form: MemoryForm, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """``M(x)`` of one head as PyTorch's modules have it."""
    seen = x
    for name, weight in weights.items():
        if name == "outer" and form.hidden:
            seen = F.gelu(seen) / form.hidden**0.5
        bias = weight[:, -1] if form.bias else None
        seen = F.linear(seen, weight[:, :-1] if form.bias else weight, bias)
    if form.layer_norm:
        seen = F.layer_norm(seen, seen.shape[-1:], eps=1e-6)
    return seen + x if form.residual else seen


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("objective", ["dot", "squared", "cubed", "huber"])
def test_closed_gradients_are_those_of_autograd(form: MemoryForm, objective: str) -> None:
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "dot": lambda y, v: -(y * v).sum(),
        "squared": lambda y, v: 0.5 * (y - v).square().sum(),
        "cubed": lambda y, v: ((y - v).square() + 1e-6).pow(1.5).sum() / 3,
        "huber": lambda y, v: F.huber_loss((y - v).norm(), torch.zeros(()).double(), reduction="sum"),
    }
    memory = GradientMemory(HEADS, form, momentum=False).double().requires_grad_(False)
    state = {spec.name: 0.3 * torch.randn(1, *spec.shape).double() for spec in memory.spec("", "")}
    weights = memory.at(state)
    x = torch.randn(1, HEADS, TOKENS, WIDTH).double()
    target = 2 * torch.randn(1, HEADS, TOKENS, form.outputs).double()
    trace = memory.read(weights, x)
    found = memory.gradients(weights, trace, getattr(objectives, objective)(trace.output, target))
    for h in range(HEADS):
        for t in range(TOKENS):
            own = {name: weight[0, h].clone().requires_grad_() for name, weight in weights.items()}
            y = _network(form, own, x[0, h, t])
            torch.testing.assert_close(trace.output[0, h, t], y)
            expected = torch.autograd.grad(losses[objective](y, target[0, h, t]), list(own.values()))
            for name, gradient in zip(own, expected, strict=True):
                outer = found[name][0, h, t].outer(trace.seen[name][0, h, t])
                torch.testing.assert_close(outer, gradient, rtol=1e-7, atol=1e-9)


def test_what_softmax_and_power_make_of_a_matrix() -> None:
    written = {
        name: torch.randn(1, HEADS, *shape).double() for name, shape in FORMS["softmax"].shapes().items()
    }
    for kind in ("softmax", "power"):
        memory = GradientMemory(HEADS, FORMS[kind], momentum=False).double().requires_grad_(False)
        for name, weight in memory.at(written).items():
            whole = memory.initial(name) + written[name]
            if kind == "softmax":
                assert_close(weight.sum(-1), torch.full_like(weight[..., 0], weight.shape[-1]))
                assert_close(weight / weight.sum(-1, keepdim=True), torch.softmax(whole, dim=-1))
            else:
                norm = torch.linalg.vector_norm(whole, ord=4, dim=(-2, -1), keepdim=True)
                torch.testing.assert_close(weight, whole / norm**2, rtol=1e-5, atol=0)


def _rule(name: str, **options: Any) -> Any:
    return build(small_config(Parts(rule=name), rule_options=options, chunk=1)).blocks[0].phi


def _fresh(rule: Any) -> State:
    return {spec.name: torch.zeros(1, *spec.shape, dtype=torch.float64) for spec in rule.spec()}


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("memory", ["mlp", "linear"])
def test_titans_at_one_token_a_chunk_is_sgd(memory: str, momentum: bool) -> None:
    """``torch.optim.SGD`` with momentum on the same network, one example after another."""
    rule: TitansRule = _rule("titans", memory=memory, momentum=momentum, forgetting=False)
    for gate in (rule.rate, getattr(rule, "surprise", None)):
        if gate is not None:
            gate.rate.weight.zero_()  # constant gates, as the optimizer's are
    rule.rate.rate_bias.fill_(-3.0)
    x, state = torch.randn(1, 9, 16, dtype=torch.float64), _fresh(rule)
    _, after, _ = rule(x, state, 0)
    _, k, v, _ = rule._heads(x, state["window"])
    for h in range(2):
        own = {n: rule.memory.initial(n)[h].clone().requires_grad_() for n in rule.memory.layers}
        beta = 0.0 if rule.surprise is None else float(torch.sigmoid(rule.surprise.rate_bias[h]))
        rate = float(rule.rate(x)[0, h, 0])
        optimizer = torch.optim.SGD(list(own.values()), lr=rate, momentum=beta)
        for t in range(9):
            optimizer.zero_grad()
            y = _network(rule.memory.form, own, k[0, h, t])
            torch.autograd.backward(0.5 * (y - v[0, h, t]).square().sum())
            optimizer.step()
        for name, weight in own.items():
            torch.testing.assert_close(after[name][0, h] + rule.memory.initial(name)[h], weight.detach())


def test_forgetting_decays_what_was_learned_alone() -> None:
    rule: TitansRule = _rule("titans", momentum=False)
    assert rule.retention is not None
    rule.rate.rate_bias.fill_(-1e3)
    state = {name: 0.3 * torch.randn_like(tensor) for name, tensor in _fresh(rule).items()}
    x = torch.randn(1, 1, 16, dtype=torch.float64)
    _, after, _ = rule(x, state, 0)
    kept = torch.exp(rule.retention.log(x))[:, :, 0, None, None]
    for layer in rule.memory.layers:
        assert_close(after[layer], kept * state[f"{layer}_next"])


def test_a_token_is_read_after_its_write_except_by_hope() -> None:
    """Changing how fast a token is learned changes its own output; Hope's memory answers first."""
    for name, changes in (("ttt", True), ("titans", True), ("dla", True), ("hope", False)):
        rule = _rule(name)
        x, state = torch.randn(1, 1, 16, dtype=torch.float64), _fresh(rule)
        y = rule(x, state, 0)[0]
        (rule.rate_bias if isinstance(rule, HopeRule) else rule.rate.rate_bias).fill_(-1e3)
        assert torch.allclose(rule(x, state, 0)[0], y) == (not changes), name


def test_hope_with_one_token_a_chunk_follows_the_equation() -> None:
    """[88], linear, with DGD: ``M' = M_0 + α D - η M k kᵀ - η (M(k) - M(v)) kᵀ`` of whole readings."""
    rule: HopeRule = _rule("hope", memory="linear")
    x, state = torch.randn(1, 1, 16, dtype=torch.float64), _fresh(rule)
    state = {n: t if n == "window" else 0.2 * torch.randn_like(t) for n, t in state.items()}
    for name in list(state):
        if name.endswith("_next"):
            state[name] = state[name.removesuffix("_next")].clone()
    _, after, _ = rule(x, state, 0)
    inner, _ = rule.convolution(rule.inputs(x), state["window"])
    z = inner[0, 0].view(2, 8)
    for h in range(2):
        vectors = rule.vectors.initial("outer").flatten(0, 1) + state["vectors.outer"][0]
        scalars = rule.scalars.initial("outer").flatten(0, 1) + state["scalars.outer"][0]
        k, v = l2_normalize(z[h] + vectors[h] @ z[h]), l2_normalize(z[h] + vectors[2 + h] @ z[h])
        rate = 2.0 * torch.sigmoid(scalars[h] @ z[h] + rule.rate_bias[h])
        alpha = torch.sigmoid(scalars[2 + h] @ z[h] + rule.retention_bias[h])
        memory, learned = (
            rule.memory.initial("outer")[0, h] + state["memory.outer"][0, h],
            state["memory.outer"][0, h],
        )
        error = (k + memory @ k) - (v + memory @ v)
        written = alpha * learned - rate * (memory @ k).outer(k) - rate * error.outer(k)
        torch.testing.assert_close(after["memory.outer_next"][0, h], written)


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ttt mlp": ("ttt", {"memory": "mlp", "expand": 2}),
    "titans linear": ("titans", {"memory": "linear", "momentum": False}),
    "titans that keeps": ("titans", {"forgetting": False, "expand": 3}),
    "moneta": ("miras", {"variant": "moneta"}),
    "yaad": ("miras", {"variant": "yaad"}),
    "hope linear, momentum": ("hope", {"memory": "linear", "momentum": True}),
    "hope, momentum, all inner": ("hope", {"momentum": True, "inner_q": True}),
    "hope without": ("hope", {"dgd": False, "retention": False, "inner_k": False, "inner_v": False}),
    "a short memory": ("transformer", {"capacity": 11}),
    "a short window": ("samba", {"window": 7, "expand": 1, "states": 3}),
}


@pytest.mark.parametrize(("rule", "options"), VARIANTS.values(), ids=VARIANTS)
def test_a_variant_reads_the_same_however_its_tokens_come(rule: str, options: dict[str, Any]) -> None:
    model = build(small_config(Parts(rule=rule), rule_options=options))
    start, tokens = state_at(model, 2, 5), random_tokens(2, 29)
    logits, after = by_steps(model, tokens, start)
    expected, expected_state = model(tokens, start)
    assert_close(logits, expected)
    assert_same_state(after, expected_state)
    state, parts = start, []
    for part in tokens.tensor_split([2, 9, 20], dim=1):
        out, state = model(part, state)
        parts.append(out)
    assert_close(torch.cat(parts, dim=1), expected)
    assert_same_state(state, expected_state)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("retnet", {"window": 4}, "rule 'retnet' has no option window; known: none"),
        ("ttt", {"memory": "deep"}, "'memory' of rule 'ttt': expected one of linear, mlp, found 'deep'"),
        ("titans", {"momentum": 1}, "'momentum' of rule 'titans': expected on or off, found 1"),
        ("transformer", {"capacity": 0}, "'capacity' of rule 'transformer': expected a whole number from 1"),
        ("transformer", {"capacity": 300}, "expected at most 256 tokens or a multiple of it, found 300"),
        ("miras", {"variant": None}, "'variant' of rule 'miras': expected one of memora, moneta, yaad"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(rule: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"rule_options: .*{message}"):
        build(small_config(Parts(rule=rule), rule_options=options))


@pytest.mark.parametrize("rule", ["retnet", "transformer", "samba"])
def test_rotary_positions_need_pairs(rule: str) -> None:
    with pytest.raises(ConfigError, match=f"heads: rule '{rule}' expected an even head width .*, found 5"):
        build(small_config(Parts(rule=rule), width=15, heads=3))


def test_the_decay_by_channel_bounds_its_chunk() -> None:
    with pytest.raises(ConfigError, match="chunk: rule 'rwkv7' expected at most 128, found 256"):
        build(small_config(Parts(rule="rwkv7"), chunk=256, block=256))
