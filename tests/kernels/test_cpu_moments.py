"""Products with the matrices of several sites: as torch's, whatever shares them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.moments import SiteProducts

pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("sites", "count", "width"), [(1, 1, 20), (3, 17, 64), (2, 70, 100), (2, 130, 576)])
def test_lines_count_to_sixteen_bits_and_matrices_to_eight(sites: int, count: int, width: int) -> None:
    make = torch.Generator().manual_seed(width)
    matrices = torch.randn(sites, width, width, generator=make)
    x = torch.randn(sites, count, width, generator=make)
    found = SiteProducts(matrices, Arena())(x)
    expected = torch.bmm(x.double(), matrices.bfloat16().double())
    assert float((found - expected).norm() / expected.norm()) < 3e-5
    exact = torch.bmm(x.double(), matrices.double())
    assert float((found - exact).norm() / exact.norm()) < 3e-3


def test_a_line_has_the_bits_that_it_has_alone() -> None:
    make = torch.Generator().manual_seed(0)
    products = SiteProducts(torch.randn(2, 100, 100, generator=make), Arena())
    x = torch.randn(2, 90, 100, generator=make)
    torch.set_num_threads(1)
    alone = torch.cat([products(x[:, line : line + 1]) for line in range(90)], dim=1)
    for threads, part in ((1, slice(90)), (2, slice(3, 80)), (3, slice(20)), (2, slice(50, 71))):
        torch.set_num_threads(threads)
        assert torch.equal(products(x[:, part]), alone[:, part])


def test_a_line_that_is_not_finite_is_so_alone() -> None:
    make = torch.Generator().manual_seed(0)
    products = SiteProducts(torch.randn(2, 64, 64, generator=make), Arena())
    x = torch.randn(2, 20, 64, generator=make)
    expected = products(x)
    x[1, 3, 5] = torch.nan
    found = products(x)
    assert bool(found[1, 3].isnan().all())
    found[1, 3] = expected[1, 3]
    assert torch.equal(found, expected)
