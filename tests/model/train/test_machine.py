"""What training asks of the allocator is what the kernel then says of the heap."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAP = """
from pathlib import Path
import torch
from hope_model.train.machine import keep_freed_memory

if {asked}:
    keep_freed_memory()
large = torch.ones(64 << 20)
for mapping in Path("/proc/self/smaps").read_text().split("VmFlags:"):
    lines = mapping.splitlines()
    if "[heap]" in mapping and any(line.startswith("AnonHugePages") and " 0 kB" not in line for line in lines):
        print("large pages")
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_large_buffer_lies_in_large_pages_of_the_heap(asked: bool) -> None:
    child = subprocess.run(
        [sys.executable, "-c", HEAP.format(asked=asked)], capture_output=True, text=True, check=True
    )
    assert ("large pages" in child.stdout) == asked
