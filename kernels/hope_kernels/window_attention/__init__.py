"""Grouped-query attention of new tokens over a window of cached keys and values."""

from hope_kernels.window_attention.grouped import window_attention

__all__ = ["window_attention"]
