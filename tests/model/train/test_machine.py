"""What training asks of the allocator is what the kernel then says of the heap."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAP = """
import torch
from pathlib import Path
from hope_model.train.machine import keep_freed_memory
if {asked}:
    keep_freed_memory()
freed = torch.ones(64 << 20)
start = freed.data_ptr()
del freed
print(torch.ones(64 << 20).data_ptr() == start)
mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
print(any("[heap]" in before and "hg" in after.splitlines()[0].split()
          for before, after in zip(mappings, mappings[1:])))
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without large pages"
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_large_buffer_is_kept_in_a_heap_of_large_pages(asked: bool) -> None:
    child = subprocess.run(
        [sys.executable, "-c", HEAP.format(asked=asked)], capture_output=True, text=True, check=True
    )
    assert child.stdout.split()[1] == str(asked)
    assert not asked or child.stdout.split()[0] == "True"
