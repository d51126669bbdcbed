"""A row that is alone is summed in another order than one in a batch; so it is given company."""

from torch import Tensor

_ENOUGH = 64
"""Numbers on the left of a bf16 product from which a CPU's kernels sum in one order, at any height."""
_ALONE = 1024
"""Columns up to which one row is enough if it has as many numbers; beyond them it takes two."""


def in_company(x: Tensor) -> Tensor:
    """``x [..., T, K]`` -> ``[..., T', K]``, ``T' >= T``: itself, or copies of it below one another."""
    rows, columns = x.shape[-2:]
    numbers = rows * columns
    if not numbers or (numbers >= _ENOUGH and (rows > 1 or columns <= _ALONE)):
        return x
    copies = max(2, -(-_ENOUGH // numbers))
    return x.repeat(*(1,) * (x.ndim - 2), copies, 1)
