"""Torch's threads of the engine's thread."""

import torch


def use_threads(threads: int) -> None:
    """Torch threads of the calling thread's operations; bits may depend on the number."""
    torch.set_num_threads(threads)
