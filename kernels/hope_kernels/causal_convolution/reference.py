"""Plain torch form of the depthwise causal convolution (E5 of ``model/EQUATIONS.md``)."""

from torch import Tensor


def causal_convolution(past: Tensor, taps: Tensor) -> Tensor:
    """``y_t = sum_j taps_j * past_{t + j}``: ``past [B, T + W - 1, D]``, ``taps [W, D]`` -> ``[B, T, D]``."""
    width, tokens = taps.shape[0], past.shape[1] - taps.shape[0] + 1
    y = past[:, :tokens] * taps[0]
    for j in range(1, width):
        y = y + past[:, j : j + tokens] * taps[j]
    return y
