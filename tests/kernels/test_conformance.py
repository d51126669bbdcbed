"""Every operation's fused form against its reference: in the interpreter, and with ``-m gpu``, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hope_kernels.launch import configurations, launch_with, launching_through
from hope_kernels.subject import Arguments, Sizes, Subject, outputs
from hope_kernels.subjects import SUBJECTS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of NaN in the interpreter
ROWS = 3
LONG = {"choose_tokens"}
"""Their searches take seconds in the interpreter: by default they are held to their references alone."""


def on_both(*values: Any, long: bool) -> Iterator[Any]:
    """A case in the interpreter, and on a GPU."""
    label = "-".join(value if isinstance(value, str) else _label(value) for value in values)
    yield pytest.param(*values, "cpu", id=label, marks=pytest.mark.slow if long else ())
    yield pytest.param(*values, "cuda", id=f"{label}-gpu", marks=pytest.mark.gpu)


def _label(value: Sizes | torch.dtype) -> str:
    if isinstance(value, torch.dtype):
        return str(value)[6:]
    return "-".join(f"{key}{size}" for key, size in value.items())


EACH = pytest.mark.parametrize(
    ("name", "device"), [case for name in SUBJECTS for case in on_both(name, long=name in LONG)]
)


def everything() -> Iterator[Any]:
    for name, subject in SUBJECTS.items():
        for sizes in subject.small:
            for dtype in subject.dtypes:
                long = name in LONG and max(sizes.values()) > 63
                yield from on_both(name, sizes, dtype, long=long)


def ragged(subject: Subject) -> Sizes:
    """Sizes of which none is a power of two."""
    return subject.small[(len(subject.small) - 1) // 2]


def cloned(arguments: Arguments) -> Arguments:
    return {name: x.clone() if isinstance(x, Tensor) else x for name, x in arguments.items()}


def fused(subject: Subject, arguments: Arguments, configuration: int = 0) -> tuple[Tensor, ...]:
    with launching_through(partial(launch_with, configuration)):
        return outputs(subject.op.fused()(**arguments))


def reference(subject: Subject, arguments: Arguments) -> tuple[Tensor, ...]:
    return outputs((subject.expected or subject.op.reference)(**arguments))


def close(subject: Subject, found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape
    tolerance = subject.tolerance[dtype]
    if not found.dtype.is_floating_point or tolerance == 0.0:
        assert equal(found, expected)
    else:
        found, expected = found.double(), expected.double()
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def equal(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit, NaN included."""
    if not found.dtype.is_floating_point:
        return torch.equal(found, expected)
    return bool(((found == expected) | (found.isnan() & expected.isnan())).all())


def small(name: str, device: str) -> tuple[Subject, Arguments]:
    subject = SUBJECTS[name]
    return subject, subject.arguments(ragged(subject), rows=ROWS, device=device)


def with_nan(arguments: Arguments, name: str, index: int) -> Arguments:
    arguments = cloned(arguments)
    arguments[name][index] = float("nan")
    return arguments


@pytest.mark.parametrize(("name", "sizes", "dtype", "device"), [*everything()])
def test_outputs_and_state_equal_the_references(
    name: str, sizes: Sizes, dtype: torch.dtype, device: str
) -> None:
    subject = SUBJECTS[name]
    arguments = subject.arguments(sizes, rows=ROWS, device=device, dtype=dtype)
    mine, theirs = cloned(arguments), cloned(arguments)
    found, expected = fused(subject, mine), reference(subject, theirs)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        close(subject, x, y, dtype)
    slots = arguments["slots"].tolist()
    bystanders = [slot for slot in range(ROWS + 2) if slot not in slots]
    for key, before in arguments.items():
        if key in subject.state:
            assert not equal(mine[key][slots], before[slots]), f"{key} was not written"
            close(subject, mine[key][slots], theirs[key][slots], dtype)
            assert equal(mine[key][bystanders], before[bystanders])
        elif isinstance(before, Tensor):
            assert equal(mine[key], before), f"{key} is an input"


@EACH
def test_every_configuration_equals_the_reference(name: str, device: str) -> None:
    """Those that a tuned kernel chooses from, or the only one."""
    subject, arguments = small(name, device)
    theirs = cloned(arguments)
    wanted = (*reference(subject, theirs), *(theirs[key] for key in subject.state))
    choices: list[int] = []
    with launching_through(lambda kernel, *launch: choices.append(len(configurations(kernel)))):
        subject.op.fused()(**cloned(arguments))
    for configuration in range(max(1, *choices)):
        mine = cloned(arguments)
        found = (*fused(subject, mine, configuration), *(mine[key] for key in subject.state))
        for x, y in zip(found, wanted, strict=True):
            close(subject, x, y, subject.dtypes[0])


@EACH
def test_a_row_does_not_know_its_company(name: str, device: str) -> None:
    subject, arguments = small(name, device)
    together = cloned(arguments)
    found = fused(subject, together)
    for row in range(ROWS):
        alone = cloned(arguments)
        for key in ("slots", *subject.by_row):
            alone[key] = alone[key][row : row + 1].clone()
        mine = fused(subject, alone)
        assert all(equal(x[0], y[row]) for x, y in zip(mine, found, strict=True))
        slot = int(arguments["slots"][row])
        assert all(equal(alone[key][slot], together[key][slot]) for key in subject.state)


@EACH
def test_nan_in_one_row_stays_there(name: str, device: str) -> None:
    """In any of its inputs and in its state; what becomes of the row itself is as the reference has it."""
    subject, arguments = small(name, device)
    clean = cloned(arguments)
    expected = fused(subject, clean)
    slots, others = arguments["slots"].tolist(), [0, 2]
    planted = [(key, 1) for key in subject.by_row] + [
        (key, slots[1]) for key in (*subject.state, *subject.read)
    ]
    for key, index in planted:
        if not arguments[key].dtype.is_floating_point:
            continue
        broken = with_nan(arguments, key, index)
        theirs = cloned(broken)
        found, wanted = fused(subject, broken), reference(subject, theirs)
        for x, y, z in zip(found, expected, wanted, strict=True):
            assert equal(x[others], y[others]), f"NaN in {key} came out of another row"
            close(subject, x, z, subject.dtypes[0])
        for state in subject.state:
            rows = [slot for slot in range(ROWS + 2) if slot != slots[1]]
            assert equal(broken[state][rows], clean[state][rows]), f"NaN in {key} went into another row"
            close(subject, broken[state][slots], theirs[state][slots], subject.dtypes[0])


@EACH
def test_a_padded_row_reads_and_writes_nothing(name: str, device: str) -> None:
    subject, arguments = small(name, device)
    clean = cloned(arguments)
    expected = fused(subject, clean)
    padded = cloned(arguments)
    left = int(padded["slots"][1])
    padded["slots"][1] = -1
    theirs = cloned(padded)
    found, wanted = fused(subject, padded), reference(subject, theirs)
    for x, y, z in zip(found, expected, wanted, strict=True):
        assert equal(x[[0, 2]], y[[0, 2]])
        assert not x[1].any()
        assert equal(x[1], z[1])
    for state in subject.state:
        assert equal(padded[state][left], arguments[state][left])
        rows = [slot for slot in range(ROWS + 2) if slot != left]
        assert equal(padded[state][rows], clean[state][rows])
