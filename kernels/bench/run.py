"""Check and time every kernel on this machine's GPU, and print one table: ``python kernels/bench/run.py``.

Exit code 0: all equal their references; 1: one does not; 2: there is no GPU.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hope_kernels.dispatch import fallbacks
from hope_kernels.subject import Arguments, Subject, outputs
from hope_kernels.subjects import SUBJECTS

COPIED = 1 << 30
"""Bytes of the copy that tells this GPU's bandwidth."""
HEADER = f"{'kernel':<28}{'type':<10}{'error':>10}{'fused µs':>11}{'plain µs':>11}{'GB/s':>9}{'of copy':>9}"


class Measured(NamedTuple):
    """error: largest relative to the tolerance, 1 at its edge. Times are medians, in microseconds."""

    name: str
    dtype: str
    error: float
    fused_us: float
    plain_us: float
    bytes_per_second: float


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU: nothing to measure; kernels/bench/ROOFLINE.md has predictions", file=sys.stderr)
        return 2
    copied = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, copies at {copied / 1e9:.0f} GB/s")
    print(HEADER)
    wrong = []
    for row in measured():
        share = row.bytes_per_second / copied
        print(
            f"{row.name:<28}{row.dtype:<10}{row.error:>10.3f}{row.fused_us:>11.1f}{row.plain_us:>11.1f}"
            f"{row.bytes_per_second / 1e9:>9.0f}{share:>9.2f}",
            flush=True,
        )
        if not row.error <= 1:
            wrong.append(row.name)
    print("the engine on this GPU: hope bench decode --device cuda --decode-rows 32")
    for name in (*wrong, *fallbacks()):
        print(f"{name}: does not equal its reference, or does not compile", file=sys.stderr)
    return 1 if wrong or fallbacks() else 0


def copy_bandwidth() -> float:
    """Bytes a second read and written by a copy."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device="cuda")
    target = torch.zeros_like(source)
    return 2 * COPIED / (_time_us(lambda: target.copy_(source)) * 1e-6)


def measured() -> Iterator[Measured]:
    for subject in SUBJECTS.values():
        for dtype in subject.dtypes:
            yield _measure(subject, dtype)


def _measure(subject: Subject, dtype: torch.dtype) -> Measured:
    def arguments() -> Arguments:
        return subject.arguments(subject.served, rows=subject.served_rows, device="cuda", dtype=dtype)

    mine, theirs = arguments(), arguments()
    plain = subject.expected or subject.op.reference
    found, expected = outputs(subject.op(**mine)), outputs(plain(**theirs))
    pairs = [*zip(found, expected, strict=True), *((mine[key], theirs[key]) for key in subject.state)]
    error = max(_error(x, y, subject.tolerance[dtype]) for x, y in pairs)
    fused_us = _time_us(lambda: subject.op(**mine))
    plain_us = _time_us(lambda: subject.op.reference(**theirs))
    needed = subject.needed_bytes(mine, found)
    return Measured(subject.name, str(dtype)[6:], error, fused_us, plain_us, needed / (fused_us * 1e-6))


def _error(found: Tensor, expected: Tensor, tolerance: float) -> float:
    """Of the worst element, 1 where it is just tolerated; infinite for what must be equal and is not."""
    if tolerance == 0 or not found.dtype.is_floating_point:
        return 0.0 if torch.equal(found, expected) else float("inf")
    allowed = tolerance * (1 + expected.double().abs())
    return float(((found.double() - expected.double()).abs() / allowed).nan_to_num(float("inf")).max())


def _time_us(call: object) -> float:
    from triton.testing import do_bench

    return 1e3 * float(do_bench(call, warmup=10, rep=100, return_mode="median"))


if __name__ == "__main__":
    sys.exit(main())
