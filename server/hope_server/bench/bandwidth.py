"""How fast this process copies memory: the limit that decoding is measured against."""

import time

import torch

COPY_BYTES = 1 << 28
"""Far more than any cache holds."""


@torch.inference_mode()
def copy_bandwidth(device: torch.device, *, repeats: int = 7, size: int = COPY_BYTES) -> float:
    """Bytes per second, read and written together, of the best of ``repeats`` copies of ``size`` bytes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def synchronize(device: torch.device) -> None:
    """Wait for the device's work; a CPU has none open."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
