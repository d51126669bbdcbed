"""The structures of ``tangent.h``, field by field, and the functions that take them."""

import ctypes
from ctypes import Structure, c_double, c_int64, c_void_p

from hope_kernels.cpu.reader_layout import PROJECTIONS, Frozen


class Back(Structure):
    PRODUCTS = ("qkv", "output", "gate_up", "down")
    _fields_ = (*((name, Frozen) for name in PRODUCTS), ("subspaces", Frozen * len(PROJECTIONS)))


class Lesson(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "deltas", "bias")),
        *((name, c_int64) for name in ("first", "count", "span")),
    )


class Tangent(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("backs", "lessons", "owners", "positions", "cosines", "sines")),
        *((name, c_void_p) for name in ("hidden", "x", "inputs", "slopes", "scratch", "phases")),
        *((name, c_int64) for name in ("count", "asked", "lines", "most_span", "most_asked")),
    )


class Survey(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("logits", "targets", "totals", "losses", "best")),
        *((name, c_int64) for name in ("count", "vocab", "size")),
    )


class Rest(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("logits", "totals", "lists", "lengths", "embedding")),
        *((name, c_void_p) for name in ("shares", "means", "chances", "sums")),
        *((name, c_int64) for name in ("count", "vocab", "width")),
    )


class Shortlist(Structure):
    TENSORS = ("rows", "place", "reference", "others", "direction")
    _fields_ = (
        *((name, c_void_p) for name in (*TENSORS, "scratch")),
        *((name, c_int64) for name in ("first", "count", "listed")),
    )


class Weighing(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("lists", "x", "gain", "margins", "slopes")),
        *((name, c_int64) for name in ("count", "asked", "width")),
        ("epsilon", c_double),
    )


class Moments(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("matrices", "x", "y", "operands")),
        *((name, c_int64) for name in ("sites", "count", "width")),
    )


class Solving(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("gram", "margins", "weights", "pull", "scratch")),
        *((name, c_int64) for name in ("count", "steps", "halvings")),
        ("converged", c_double),
    )


def typed(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of its functions."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.hope_tangent_phases.argtypes, library.hope_tangent_phases.restype = (pointer,), number
    library.hope_tangent_scratch.argtypes = (pointer, number, number, number)
    library.hope_tangent_scratch.restype = number
    for function in (library.hope_tangent_forward, library.hope_tangent_back):
        function.argtypes, function.restype = (pointer, pointer, ctypes.c_int32), None
    for function in (library.hope_survey, library.hope_rest, library.hope_moments, library.hope_weigh):
        function.argtypes, function.restype = (pointer, pointer, ctypes.c_int32), None
    for function in (library.hope_rest_line, library.hope_rest_sums, library.hope_survey_phases):
        function.argtypes, function.restype = (number,), number
    library.hope_moments_line.argtypes, library.hope_moments_line.restype = (number,), number
    for function in (library.hope_moments_phases, library.hope_weigh_phases):
        function.argtypes, function.restype = (), number
    library.hope_solve.argtypes, library.hope_solve.restype = (pointer,), None
    library.hope_weigh_scratch.argtypes = (number, number, number)
    library.hope_weigh_scratch.restype = number
    return library
