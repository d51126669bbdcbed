"""Operations of torch by one thread. Small ones that it shares out wait for threads to wake, which then look
out for more work on cores that a kernel needs; and some have other bits with other threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, on this thread, torch shares nothing out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
