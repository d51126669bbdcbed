"""Torch on one thread, kernels on all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from hope_kernels.torch_threads import kernel_threads, one_thread


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_kernels_take_what_torch_leaves() -> None:
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)
    with one_thread():
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        with one_thread():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)


def test_what_fails_within_leaves_threads_as_they_were() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)


def test_where_torch_has_one_thread_kernels_have_no_more() -> None:
    torch.set_num_threads(1)
    with one_thread():
        assert kernel_threads() == 1
    torch.set_num_threads(2)
    assert kernel_threads() == 2


def test_other_threads_are_not_meant() -> None:
    found: list[int] = []

    def look() -> None:
        torch.set_num_threads(2)
        found.append(kernel_threads())

    with one_thread():
        other = threading.Thread(target=look)
        other.start()
        other.join()
    assert found == [2]
