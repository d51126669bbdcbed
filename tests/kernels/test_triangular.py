"""The inverse by halves against the library's solve, at every parity of the halves."""

import pytest
import torch

from hope_kernels.delta_memory.triangular import unit_lower_inverse


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 16, 17, 33, 63, 64, 100])
def test_it_equals_the_librarys_solve(size: int) -> None:
    lower = torch.randn(2, 3, size, size, dtype=torch.float64).tril(-1) / size**0.5
    eye = torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.solve_triangular(eye - lower, eye.expand_as(lower), upper=False)
    assert (unit_lower_inverse(lower) - expected).norm() <= 1e-12 * expected.norm()


def test_a_matrix_of_nan_leaves_its_neighbours_bit_identical() -> None:
    lower = torch.randn(3, 20, 20).tril(-1)
    whole = unit_lower_inverse(lower)
    lower[1] = float("nan")
    assert torch.equal(unit_lower_inverse(lower)[[0, 2]], whole[[0, 2]])
