"""A state-space recurrence with a decay per channel and state, both chosen by the input."""

from hope_kernels.selective_scan.reference import selective_step
from hope_kernels.selective_scan.scan import selective_scan

__all__ = ["selective_scan", "selective_step"]
