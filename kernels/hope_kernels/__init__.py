"""Kernels of per-session memories; each has a plain reference beside it."""

from hope_kernels.causal_convolution import causal_convolution
from hope_kernels.delta_memory import delta_chunk, delta_chunk_write, delta_step

__all__ = ["causal_convolution", "delta_chunk", "delta_chunk_write", "delta_step"]
