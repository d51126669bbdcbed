"""Memory in large pages: zeros of their own, each from a cache line on."""

from __future__ import annotations

import pytest
import torch

from hope_kernels.cpu import arena
from hope_kernels.cpu.arena import LINE, PAGE, Arena


def test_tensors_lie_apart_and_begin_at_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones beside one another, and those for which new memory is asked."""
    monkeypatch.setattr(arena, "RESERVED", PAGE)
    own, kinds = Arena(), [torch.float32, torch.int32, torch.int64]
    shapes = [(3, 5), (1,), (2, 3, 7), (PAGE // 8,), (PAGE // 8,), (PAGE,), (4,)]
    made = [own.zeros(*shape, dtype=kinds[place % 3]) for place, shape in enumerate(shapes)]
    for place, (tensor, shape) in enumerate(zip(made, shapes, strict=True)):
        assert (tensor.shape, tensor.dtype, tensor.data_ptr() % LINE) == (shape, kinds[place % 3], 0)
        assert tensor.is_contiguous()
        assert not tensor.any()
        tensor.fill_(place + 1)
    assert [int(tensor.unique()) for tensor in made] == list(range(1, len(made) + 1))
