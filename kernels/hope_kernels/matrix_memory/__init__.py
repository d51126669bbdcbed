"""A matrix memory with decay and a correction along one direction a token: one token, or chunks in parallel."""

from hope_kernels.matrix_memory.chunk import ChunkMaps, chunk_maps
from hope_kernels.matrix_memory.decay import ChunkDecay
from hope_kernels.matrix_memory.reference import matrix_step

__all__ = ["ChunkDecay", "ChunkMaps", "chunk_maps", "matrix_step"]
