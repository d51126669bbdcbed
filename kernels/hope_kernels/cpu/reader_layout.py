"""The structures of ``frozen.h`` and ``reader.h``, field by field, and the functions that take them."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

from hope_kernels.cpu.layout import with_draw

KINDS = ("bf16", "int8", "int4", "block8", "block4")
"""How weights are kept, by their number."""
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""Sites, by their number."""


class Frozen(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weights", "scales", "bias")),
        *((name, c_int32) for name in ("outputs", "inputs", "kind", "none")),
    )


class Site(Structure):
    _fields_ = (("subspace", Frozen), ("number", c_int64))


class Layer(Structure):
    PRODUCTS = ("qkv", "output", "gate_up", "down")
    GAINS = ("input_gain", "mlp_gain", "query_gain", "key_gain")
    _fields_ = (
        *((name, Frozen) for name in PRODUCTS),
        ("sites", Site * len(PROJECTIONS)),
        *((name, c_void_p) for name in GAINS),
        ("turns", c_int64),
    )


class Reader(Structure):
    SIZES = ("width", "depth", "heads", "groups", "head_width", "mlp", "first_adapted", "rank")
    _fields_ = (
        *((name, c_void_p) for name in ("layers", "embedding")),
        *((name, c_int32) for name in SIZES),
        ("epsilon", c_float),
    )


class Launch(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "rows", "positions", "prefixes", "memories")),
        *((name, c_void_p) for name in ("deltas", "keys", "values", "hidden", "outputs")),
        *((name, c_void_p) for name in ("cosines", "sines", "x", "scratch", "phases")),
        *((name, c_int64) for name in ("count", "size", "capacity", "window", "lines")),
        *((name, c_int64) for name in ("ring_step", "state_step")),
    )


def typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of its functions."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for name in ("hope_frozen_bytes", "hope_frozen_line", "hope_reader_phases"):
        getattr(library, name).argtypes, getattr(library, name).restype = (pointer,), number
    library.hope_reader_scratch.argtypes = (pointer, number, number)
    library.hope_reader_scratch.restype = number
    library.hope_find_blocks.argtypes = (c_int32, number, *(pointer,) * 4)
    library.hope_find_blocks.restype = c_int32
    for name, types in {
        "hope_frozen_pack": (pointer,) * 5,
        "hope_frozen_unpack": (pointer, pointer),
        "hope_frozen_multiply": (pointer, pointer, number, pointer, pointer, ctypes.c_int32),
        "hope_frozen_normed": (*(pointer,) * 3, c_float, number, *(pointer,) * 3, ctypes.c_int32),
        "hope_read": (pointer, pointer, ctypes.c_int32),
    }.items():
        getattr(library, name).argtypes, getattr(library, name).restype = types, None
    return with_draw(library)
