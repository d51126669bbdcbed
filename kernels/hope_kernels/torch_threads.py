"""Operations of torch by one thread, beside kernels that take as many as there are. Small ones that it shares
out wait for threads to wake, which then look out for more work on cores that a kernel needs; and some have
other bits with other threads.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Outside(threading.local):
    """The calling thread's number outside of :func:`one_thread`; 0 where it is not within."""

    threads = 0


_outside = _Outside()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, on this thread, torch shares nothing out; a compiled kernel still does."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    _outside.threads = threads
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _outside.threads = 0


def kernel_threads() -> int:
    """As many as a compiled kernel may take: torch's, or those that it has outside of :func:`one_thread`."""
    return _outside.threads or torch.get_num_threads()
