"""What training asks of the allocator is what the kernel then says of the heap."""

import subprocess
import sys
from pathlib import Path

import pytest

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HEAP = """
from pathlib import Path
import torch
from hope_model.train.machine import keep_freed_memory

if {asked}:
    keep_freed_memory()
large = torch.ones(64 << 20)
for mapping in Path("/proc/self/smaps").read_text().split("VmFlags:"):
    lines = mapping.splitlines()
    sizes = [line.split()[1] for line in lines if line.startswith("AnonHugePages")]
    if "[heap]" in mapping and sizes != ["0"]:
        print("large pages")
"""


@pytest.mark.skipif(
    not ENABLED.exists() or "[madvise]" not in ENABLED.read_text(),
    reason="a kernel that gives large pages to all or to none",
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_large_buffer_lies_in_large_pages_of_the_heap(asked: bool) -> None:
    child = subprocess.run(
        [sys.executable, "-c", HEAP.format(asked=asked)], capture_output=True, text=True, check=True
    )
    assert ("large pages" in child.stdout) == asked
