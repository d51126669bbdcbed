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
        "learns": maker.alternate(first=True),
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


DUE = 0.5
"""Of the rows, as they are made here."""


def _write_again(arguments: Arguments) -> int:
    """A matrix passes four times: for the gradient's norm, the step's, the memory's, and to be written."""
    again = {"gradient": 3, "delta": 1, "first": 2, "second": 2}
    held = {name: arguments[name] for name in again if arguments[name] is not None}
    due = round(DUE * len(arguments["slots"]))
    return sum(again[name] * due * slab.nbytes // len(slab) for name, slab in held.items())


def _write_subject(rule: str) -> Subject:
    slabs = {"delta": 2 * DUE, "gradient": 2 * DUE, "last_key": 1.0}
    for name in {"momentum": ("first",), "adam": ("first", "second", "count")}.get(rule, ()):
        slabs[name] = 2 * DUE
    return Subject(
        associative_write,
        partial(_write, rule),
        _SMALL,
        {"width": 512},
        32,
        state=slabs,
        by_row=("due", "key"),
        again=_write_again,
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
        by_row=("learns", "key", "value", "rate"),
        again=_base_again,
    ),
    *map(_write_subject, ("sgd", "momentum", "adam")),
)
