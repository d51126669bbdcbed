"""The whole engine's step on a GPU that is not there: nothing of the host meets anything of the device, what
leaves it is the host's, and the results are those of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.model.attention.tiny import config, random_weights
from tests.model.small import EACH_RULE, Parts, relative_error, small_model
from tests.pretend_gpu import GPU, PretendGPU, PretendGraphs, pretend_gpu
from tests.server.engine.gpu_scenario import Story, on_host, tell

from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import SessionRows
from hope_model.hope import Hope
from hope_model.state import State
from hope_server.engine import previews, steering
from hope_server.engine.runner import ServedModel
from hope_server.engine.state_runner import StateRunner
from hope_server.errors import InternalError

HOST = torch.device("cpu")
TOLERANCE = 1e-4
"""Relative, in fp32: a GPU's path sums in another order."""


@pytest.fixture(autouse=True)
def fp32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's own way to decode has operands in bf16."""
    monkeypatch.setattr(previews, "can_decode", lambda _model: False)


@torch.inference_mode(False)  # the model is kept for other tests
def native(device: torch.device, parts: Parts | None = None) -> Hope:
    small = small_model(parts or Parts(), torch.float32)
    with torch.device("meta"):
        model = Hope(small.config)
    weights = {name: tensor.to(device) for name, tensor in small.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


@torch.inference_mode(False)
def attention(device: torch.device) -> HopeAttention:
    return HopeAttention(config(), random_weights(config()), dtype=torch.float32, device=device)


FAMILIES: dict[str, Callable[[torch.device], ServedModel]] = {"hope": native, "hope_attention": attention}
FUSED = {
    "hope": {
        *("gather_rows", "scatter_rows", "associative_step", "associative_write"),
        *("memory_step", "delta_chunk_rows", "choose_tokens"),
    },
    "hope_attention": {"decode_attention", "low_rank_read", "choose_tokens"},
}


def on_gpu(family: Callable[[torch.device], ServedModel], **sizes: Any) -> tuple[Story, PretendGPU]:
    with pretend_gpu() as gpu, patch.object(previews, "CudaGraphs", lambda _device: PretendGraphs(gpu)):
        return tell(family(GPU), **sizes), gpu


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_step_on_a_gpu(family: str) -> None:
    found, gpu = on_gpu(FAMILIES[family])
    _assert_like(found, tell(FAMILIES[family](HOST)))
    assert set(gpu.fused) == FUSED[family]


@pytest.mark.slow
@pytest.mark.parametrize("parts", EACH_RULE, ids=str)
def test_the_whole_step_of_each_rule(parts: Parts) -> None:
    found, _ = on_gpu(lambda device: native(device, parts))
    _assert_like(found, tell(native(HOST, parts)))


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_step_on_this_gpu(family: str) -> None:
    _assert_like(tell(FAMILIES[family](torch.device("cuda", 0))), tell(FAMILIES[family](HOST)))


@pytest.mark.parametrize(
    ("family", "owner", "name"),
    [("hope", StateRunner, "_tokens"), ("hope_attention", SessionRows, "_ids")],
)
def test_tokens_left_on_the_host_are_found(
    family: str, owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, name, lambda _self, tokens: torch.tensor(tokens))
    with pytest.raises((InternalError, AssertionError)):
        on_gpu(FAMILIES[family])
    assert any("expected all tensors on cuda:0" in str(record.exc_info) for record in caplog.records)


def test_a_mask_left_on_the_host_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = steering._refused
    monkeypatch.setattr(steering, "_refused", lambda *args: plain(*args).cpu())
    with pytest.raises((InternalError, AssertionError)):
        on_gpu(native)
    assert any("masked_fill_: expected all tensors on cuda:0" in str(one.exc_info) for one in caplog.records)


def _assert_like(found: Story, expected: Story) -> None:
    assert found.greedy == expected.greedy
    for name in ("row", "live", "replayed"):
        _assert_close(getattr(found, name), getattr(expected, name))
    assert found.drift == pytest.approx(expected.drift, rel=TOLERANCE)


def _assert_close(found: State, expected: State) -> None:
    assert on_host(found)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            error = relative_error(found[name], tensor)
            assert error < TOLERANCE, f"{name}: {error:.1e}"
        else:
            assert torch.equal(found[name], tensor), f"{name}: {found[name]} for {tensor}"
