"""A chunk of the self-modifying memory, declared for tests, compilation and timings."""

from functools import partial

import torch

from hope_kernels.delta_memory import delta_chunk_rows
from hope_kernels.subject import Arguments, Maker, Sizes, Subject

_SMALL: tuple[Sizes, ...] = (
    {"heads": 2, "tokens": 1, "lines": 7, "width": 7},
    {"heads": 1, "tokens": 13, "lines": 7, "width": 10},
    {"heads": 1, "tokens": 63, "lines": 33, "width": 63},
)


def _make(reads: bool, maker: Maker, sizes: Sizes) -> Arguments:
    heads, tokens, lines, width = (sizes[name] for name in ("heads", "tokens", "lines", "width"))
    each = (maker.rows, heads, tokens)
    rate, key = 0.5 * maker.uniform(*each, 1), maker.unit(*each, width)
    return {
        "delta": maker.slab(heads, lines, width) * width**-0.5,
        "base": maker.normal(heads, lines, width) * width**-0.5,
        "slots": maker.slots(),
        "a": rate * (maker.unit(*each, width) - 2 * key),
        "w": rate * maker.normal(*each, lines),
        "k": key,
        "log_alpha": -0.2 * maker.uniform(*each),
        "q": maker.unit(*each, width) if reads else None,
    }


def _again(arguments: Arguments) -> int:
    """Every 32 lines of a memory read the chunk's keys; every row reads the base."""
    blocks, rows = -(-arguments["delta"].shape[2] // 32), len(arguments["slots"])
    shared = sum(arguments[name].nbytes for name in ("a", "k", "log_alpha"))
    shared += 0 if arguments["q"] is None else arguments["q"].nbytes
    return int((blocks - 1) * shared + (rows - 1) * arguments["base"].nbytes)


def _subject(variant: str, reads: bool, lines: int) -> Subject:
    return Subject(
        delta_chunk_rows,
        partial(_make, reads),
        _SMALL,
        {"heads": 32, "tokens": 64, "lines": lines, "width": 64},
        1,
        state={"delta": 2},
        by_row=("a", "w", "k", "log_alpha", *(["q"] if reads else [])),
        again=_again,
        variant=variant,
        tolerance={torch.float32: 1e-4},
    )


SUBJECTS = (_subject("read", True, 64), _subject("write", False, 130))
