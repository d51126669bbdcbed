"""Tensor operations of Hope: each op is a folder with a plain torch ``reference``."""

from hope_kernels.delta_memory import delta_chunk, delta_chunk_write, delta_step

__all__ = ["delta_chunk", "delta_chunk_write", "delta_step"]
