"""The structures of ``model.h``, field by field, and the functions that take them."""

import ctypes
from ctypes import Structure, c_float, c_int32, c_int64, c_void_p


class Product(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weights", "bias")),
        *((name, c_int32) for name in ("outputs", "inputs", "bf16")),
    )


class Level(Structure):
    _fields_ = (
        *((name, Product) for name in ("terms", "output", "base")),
        *((name, c_void_p) for name in ("gain", "delta", "learned")),
        *((name, c_void_p) for name in ("last", "kept", "gradient")),
        *((name, c_int32) for name in ("width", "keeps")),
    )


class Block(Structure):
    PRODUCTS = ("in_gate", "query", "output", "expand", "contract")
    WEIGHTS = (
        *("phi_gain", "mlp_gain", "output_gain", "taps"),
        *("rate_bias", "retention_bias", "projections", "maps_initial", "slow_rate", "retention"),
    )
    SLABS = (
        *("window", "memory", "maps", "run_keys", "run_writes", "run_decay"),
        *("decay", "chunk_kept", "pending"),
    )
    LEARNED = ("memory", "maps")
    _fields_ = (
        *((name, Product) for name in PRODUCTS),
        *((f"{name}_base", c_void_p) for name in LEARNED),
        *((name, c_void_p) for name in (*WEIGHTS, "levels", *SLABS)),
        *((f"{name}_learned", c_void_p) for name in LEARNED),
    )


class Model(Structure):
    SIZES = ("width", "heads", "conv", "run", "chunk", "hidden", "vocab", "layers", "levels")
    _fields_ = (
        ("blocks", c_void_p),
        ("head", Product),
        *((name, c_void_p) for name in ("embedding", "gain")),
        *((name, c_int32) for name in (*SIZES, "rows")),
        *((name, c_float) for name in ("scale", "max_rate", "max_norm")),
    )


class Step(Structure):
    ARRAYS = ("rows", "tokens", "runs", "chunks", "kept", "learns", "wrote", "logits", "scratch", "phases")
    _fields_ = (*((name, c_void_p) for name in ARRAYS), ("count", c_int64), ("sequence", c_int64))


def typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of its functions."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.hope_decode.argtypes = (pointer, pointer, ctypes.c_int32)
    rows = (pointer, pointer, number)
    library.hope_end_runs.argtypes = (pointer, *rows, ctypes.c_int32)
    library.hope_end_chunks.argtypes = (pointer, *rows, pointer, ctypes.c_int32)
    library.hope_sum_gradients.argtypes = (pointer, number, *rows, ctypes.c_int32)
    library.hope_pack_rows.argtypes = (pointer, pointer, number, ctypes.c_int32)
    library.hope_pack_level.argtypes = (pointer, number, pointer, number, ctypes.c_int32)
    library.hope_pack.argtypes = (pointer, pointer, pointer)
    for name in ("decode", "end_runs", "end_chunks", "sum_gradients", "pack_rows", "pack_level", "pack"):
        getattr(library, f"hope_{name}").restype = None
    for name in ("hope_scratch", "hope_phases"):
        getattr(library, name).argtypes, getattr(library, name).restype = (pointer,), number
    library.hope_pending.argtypes = (pointer, number, number, number, pointer)
    library.hope_pending.restype = None
    return with_draw(library)


class Looks(ctypes.Structure):
    """See ``draw.h``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("rows", "best")),
        *((name, ctypes.c_int64) for name in ("count", "n")),
    )


def with_draw(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of the functions that every library has."""
    library.hope_draw.argtypes = (
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_double, ctypes.c_int64),
    )
    library.hope_best.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    library.hope_draw.restype = library.hope_best.restype = ctypes.c_int64
    library.hope_look.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    library.hope_look.restype = None
    library.hope_look_phases.argtypes, library.hope_look_phases.restype = (), ctypes.c_int64
    return library
