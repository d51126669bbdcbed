"""The causal convolution and its window."""

import pytest
import torch
from tests.model.small import assert_close
from torch.nn import functional as F

from hope_model.convolution import CausalConvolution

B, T, D = 2, 13, 5


@pytest.mark.parametrize("width", [1, 2, 4])
def test_from_an_empty_window_it_is_a_padded_convolution(width: int) -> None:
    layer = CausalConvolution(D, width).double()
    x = torch.randn(B, T, D, dtype=torch.float64)
    y, window = layer(x, torch.zeros(B, width - 1, D, dtype=torch.float64))
    padded = F.pad(x.mT, (width - 1, 0))
    assert_close(y, F.silu(F.conv1d(padded, layer.taps.T[:, None], groups=D)).mT)
    assert torch.equal(window, x[:, T - (width - 1) :])


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 12])
def test_the_window_carries_over_any_cut(cut: int) -> None:
    """Also over parts shorter than the window (hope.md §3.1 row 1)."""
    layer = CausalConvolution(D, 4).double()
    x, window = torch.randn(B, T, D, dtype=torch.float64), torch.randn(B, 3, D, dtype=torch.float64)
    expected, expected_window = layer(x, window)
    first, window = layer(x[:, :cut], window)
    rest, window = layer(x[:, cut:], window)
    assert_close(torch.cat((first, rest), dim=1), expected)
    assert torch.equal(window, expected_window)


def test_one_step_is_a_run_of_one() -> None:
    layer = CausalConvolution(D, 4)
    x, window = torch.randn(B, D), torch.randn(B, 3, D)
    y, after = layer.step(x, window)
    expected, expected_window = layer(x[:, None], window)
    assert torch.equal(y, expected[:, 0])
    assert torch.equal(after, expected_window)
