"""The level's memory, declared for tests, compilation and timings."""

from functools import partial

import torch

from hope_kernels.associative_memory import Rule, associative_step, associative_write
from hope_kernels.subject import Arguments, Maker, Sizes, Subject

_SMALL: tuple[Sizes, ...] = tuple({"width": width} for width in (1, 5, 63, 100))


def _step(maker: Maker, sizes: Sizes) -> Arguments:
    width = sizes["width"]
    return {
        "delta": maker.slab(width, width),
        "gradient": maker.slab(width, width),
        "last_key": maker.slab(width),
        "slots": maker.slots(),
        "base": maker.normal(width, width),
        "key": maker.unit(maker.rows, width),
        "value": maker.unit(maker.rows, width),
        "rate": maker.uniform(maker.rows) + 0.1,
    }


def _write(rule: str, maker: Maker, sizes: Sizes) -> Arguments:
    width, moments = sizes["width"], {"sgd": 0, "momentum": 1, "adam": 2}[rule]
    return {
        "delta": maker.slab(width, width),
        "gradient": maker.slab(width, width),
        "last_key": maker.slab(width),
        "slots": maker.slots(),
        "due": maker.alternate(first=True),
        "key": maker.unit(maker.rows, width),
        "first": maker.slab(width, width) / width if moments else None,
        "second": maker.slab(width, width).square() / width**2 if moments == 2 else None,
        "count": maker.integers(*range(maker.rows + 2)) if moments == 2 else None,
        "step_length": maker.normal(1),
        "retention": maker.normal(1) + 3,
        "rule": Rule(rule),
        "max_step": 4.0,
        "max_norm": 0.9 * width,  # some rows are beyond it, some are not
    }


def _base_again(arguments: Arguments) -> int:
    return (len(arguments["slots"]) - 1) * int(arguments["base"].nbytes)


PERIOD = 64
"""Of the level in a served model: a write's bytes move once in so many tokens."""


def _write_subject(rule: str) -> Subject:
    slabs = {"delta": 2.0, "gradient": 2.0, "last_key": 1.0}
    slabs |= {"momentum": {"first": 2.0}, "adam": {"first": 2.0, "second": 2.0, "count": 2.0}}.get(rule, {})
    return Subject(
        associative_write,
        partial(_write, rule),
        _SMALL,
        {"width": 512},
        32,
        state=slabs,
        by_row=("due", "key"),
        variant=rule,
        tolerance={torch.float32: 1e-4},
    )


SUBJECTS = (
    Subject(
        associative_step,
        _step,
        _SMALL,
        {"width": 512},
        32,
        state={"gradient": 2},
        read=("delta", "last_key"),
        by_row=("key", "value", "rate"),
        again=_base_again,
    ),
    *map(_write_subject, ("sgd", "momentum", "adam")),
)
