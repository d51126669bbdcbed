"""Our recurrences against the code of those who published them: ``pip install -e '.[published]'``, then
``pytest -m published tests/model/rules``.

Only plain torch files are run, each loaded by itself: the packages around them want a GPU.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.matrix_memory import chunk_maps
from hope_model.rules.gradient_memory import GradientMemory, MemoryForm
from hope_model.rules.objectives import squared

pytestmark = pytest.mark.published

B, H, T, K = 2, 3, 32, 8
close = partial(torch.testing.assert_close, rtol=2e-4, atol=2e-4)
"""Theirs computes in fp32."""


def _module(package: str, path: str) -> ModuleType:
    found = find_spec(package)
    assert found is not None, f"expected the package of {package} (extra 'published')"
    assert found.submodule_search_locations is not None
    file = Path(found.submodule_search_locations[0]) / path
    spec = spec_from_file_location(path.replace("/", "_").removesuffix(".py"), file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def _ours(**terms: Tensor) -> tuple[Tensor, Tensor]:
    """From an empty memory: ``(read [B, H, T, V], memory [B, H, K, V])``."""
    maps = chunk_maps(**terms)
    return maps.found, maps.add.mT


def _by_head(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def test_retention() -> None:
    q, k, v = torch.randn(3, B, H, T, K)
    expected = _module("fla", "ops/retention/naive.py").naive_retention(q, k, v)
    decay = torch.log1p(-torch.exp2(-5.0 - torch.arange(H)))[None, :, None].expand(B, H, T)
    read, _ = _ours(q=q * K**-0.5, k=k, w=v, log_alpha=decay)
    close(read, expected)


def test_delta_rule() -> None:
    q, k, v, beta = _unit(B, H, T, K), _unit(B, H, T, K), torch.randn(B, H, T, K), torch.rand(B, H, T)
    expected = _module("fla", "ops/delta_rule/naive.py").delta_rule_recurrence(q, k, v, beta)
    read, memory = _ours(
        q=q * K**-0.5,
        k=k,
        w=beta[..., None] * v,
        a=-beta[..., None] * k,
        log_alpha=torch.zeros(B, H, T),
    )
    close((read, memory), expected)


@pytest.mark.parametrize("erased", ["k", "p"])
def test_gated_delta_rule_and_comba(erased: str) -> None:
    q, k, v = _unit(B, H, T, K), _unit(B, H, T, K), torch.randn(B, H, T, K)
    p = k if erased == "k" else 0.7 * k
    beta, decay = torch.rand(B, H, T), -0.3 * torch.rand(B, H, T)
    given = [_by_head(x) for x in (q, k, v)]
    if erased == "k":
        naive = _module("fla", "ops/gated_delta_rule/naive.py").naive_recurrent_gated_delta_rule
        read, memory = naive(*given, _by_head(beta), _by_head(decay), output_final_state=True)
    else:
        naive = _module("fla", "ops/comba/naive.py").naive_recurrent_comba
        read, memory = naive(*given, _by_head(p), _by_head(beta), _by_head(decay), output_final_state=True)
    erase = -(beta * decay.exp())[..., None] * p
    found = _ours(q=q * K**-0.5, k=k, w=beta[..., None] * v, a=erase, log_alpha=decay)
    close(found, (_by_head(read), memory))


def test_generalised_delta_rule() -> None:
    """What RWKV-7 runs on."""
    q, k, v, kappa = (torch.randn(B, H, T, K), _unit(B, H, T, K), torch.randn(B, H, T, K), _unit(B, H, T, K))
    b, decay = kappa * torch.rand(B, H, T, K), -0.6 * torch.rand(B, H, T, K)
    naive = _module("fla", "ops/generalized_delta_rule/dplr/naive.py").dplr_recurrence
    expected = naive(q, k, v, -kappa, b, decay)
    found = _ours(q=q * K**-0.5, k=k, w=v, a=-kappa, b=b, log_alpha=decay)
    close(found, expected)


def test_ttt_linear() -> None:
    """A mini-batch: gradients at its start, everyone reads what came before them and themselves.

    Theirs adds the reading to its norm, ours the query: what is compared is the memory after the mini-batch.
    """
    q, k, v = torch.randn(3, B, T, H, K)
    rate = 0.1
    theirs = _module("fla", "ops/ttt/naive.py").chunk_ttt_linear_ref(
        q, k, v, torch.ones(H, K), torch.zeros(H, K), rate, mini_batch_size=T, output_final_state=True
    )
    memory = GradientMemory(H, MemoryForm(K, K, layer_norm=True, bias=True), momentum=False)
    weights = {"outer": torch.zeros(B, H, K, K + 1)}
    trace = memory.read(weights, _by_head(k))
    grads = memory.gradients(weights, trace, squared(trace.output, _by_head(v - k)))
    after = -rate * torch.matmul(grads["outer"].mT, trace.seen["outer"])
    close(after[..., :K].mT, theirs[1])
    close(after[..., K:].mT, theirs[2])


def test_the_memory_of_titans() -> None:
    """Reading and gradient of the two-layer memory of titans-pytorch."""
    theirs = _module("titans_pytorch", "memory_models.py").MemoryMLP(K, depth=2, expansion_factor=2)
    memory = GradientMemory(1, MemoryForm(K, K, hidden=2 * K), momentum=False)
    first, second = (weight.detach() for weight in theirs.weights)
    weights = {"inner": first.mT[None, None], "outer": (2 * K) ** 0.5 * second.mT[None, None]}
    k, v = torch.randn(2, 1, 1, T, K)
    trace = memory.read(weights, k)
    expected = theirs(k[0, 0])
    close(trace.output[0, 0], expected)
    torch.autograd.backward(0.5 * (expected - v[0, 0]).square().sum())
    grads = memory.gradients(weights, trace, squared(trace.output, v))
    inner = torch.matmul(grads["inner"].mT, trace.seen["inner"])[0, 0]
    outer = torch.matmul(grads["outer"].mT, trace.seen["outer"])[0, 0] * (2 * K) ** 0.5
    close(inner.mT, theirs.weights[0].grad)
    close(outer.mT, theirs.weights[1].grad)
