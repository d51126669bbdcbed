"""The self-modifying matrix memory: one token, or a whole chunk in parallel."""

from hope_kernels.delta_memory.chunk import delta_chunk, delta_chunk_write
from hope_kernels.delta_memory.reference import delta_step

__all__ = ["delta_chunk", "delta_chunk_write", "delta_step"]
