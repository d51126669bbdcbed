"""A matrix memory that decays and is corrected along one direction a token: one token, or chunks at once."""

from hope_kernels.matrix_memory.chunk import ChunkMaps, chunk_maps
from hope_kernels.matrix_memory.decay import ChunkDecay
from hope_kernels.matrix_memory.momentum import ChunkMix, Erasure, LayerWrites
from hope_kernels.matrix_memory.reference import matrix_step, momentum_step

__all__ = [
    "ChunkDecay",
    "ChunkMaps",
    "ChunkMix",
    "Erasure",
    "LayerWrites",
    "chunk_maps",
    "matrix_step",
    "momentum_step",
]
