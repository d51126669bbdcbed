"""A short depthwise convolution over time."""

from hope_kernels.causal_convolution.direct import causal_convolution

__all__ = ["causal_convolution"]
