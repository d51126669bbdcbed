"""A call that several threads share."""

import ctypes
from typing import Any

import torch

from hope_kernels.torch_threads import kernel_threads


def run(function: Any, call: ctypes.Structure, phase_bytes: int) -> None:
    """``function(call, phases, threads)`` by as many threads as a kernel may take.

    Args:
        function: of the compiled library.
        call: its arguments.
        phase_bytes: size of the counters at which threads wait for each other; one alone gets none.
    """
    threads = kernel_threads()
    phases = torch.zeros(phase_bytes, dtype=torch.uint8)
    function(ctypes.addressof(call), phases.data_ptr() if threads > 1 else None, threads)
