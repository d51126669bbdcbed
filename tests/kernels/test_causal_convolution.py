"""The depthwise convolution against torch's own, values and gradients, in every form."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import hope_kernels
from hope_kernels.causal_convolution import reference

B, D = 2, 5


@pytest.fixture(params=[reference, hope_kernels], ids=["reference", "fused"])
def form(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def _library(past: Tensor, taps: Tensor) -> Tensor:
    return F.conv1d(past.mT, taps.mT[:, None], groups=past.shape[-1]).mT


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("tokens", [1, 2, 63])
def test_it_equals_the_librarys(form: ModuleType, tokens: int, width: int) -> None:
    past = torch.randn(B, tokens + width - 1, D, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(width, D, dtype=torch.float64, requires_grad=True)
    found, expected = form.causal_convolution(past, taps), _library(past, taps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(found.sin().sum(), (past, taps)),
        torch.autograd.grad(expected.sin().sum(), (past, taps)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_an_output_depends_on_its_past_alone(form: ModuleType) -> None:
    past, taps = torch.randn(B, 12, D), torch.randn(4, D)
    whole = form.causal_convolution(past, taps)
    past[:, 8:] = float("nan")
    assert torch.equal(form.causal_convolution(past, taps)[:, :5], whole[:, :5])
