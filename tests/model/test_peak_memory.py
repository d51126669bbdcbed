"""No tensor of a gradient per token: a chunk's update costs what its tokens and its memories cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.model.small import COMBINATIONS, Parts, build, random_tokens, small_config
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = 16


class LargestTensor(TorchDispatchMode):
    """Remembers the most bytes that any one result holds; a view counts as what it looks at."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


WITH_PAIRS = ("samba", "transformer")
"""Rules whose ring of keys and values is larger than this bound, whatever a chunk does."""


@pytest.mark.parametrize("parts", [it for it in COMBINATIONS if it.rule not in WITH_PAIRS], ids=str)
def test_nothing_as_large_as_a_gradient_per_token_is_made(parts: Parts) -> None:
    """Forward and backward of a whole chunk (hope.md §3.1 row 5)."""
    config = small_config(parts, width=32, heads=2, cms_width=24, chunk=T)
    model = build(config, torch.float32).requires_grad_()
    tokens, rows, weights = random_tokens(2, T + 1), 2, list(model.parameters())
    with LargestTensor() as largest:
        logits, _ = model(tokens[:, :-1], model.initial_state(rows))
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.grad(loss, weights, allow_unused=True)  # a level's last write reaches no output
    head = config.width // config.heads
    per_token = 4 * rows * T * min(config.heads * head * head, config.cms_width**2)
    assert largest.bytes <= per_token / 4


def test_the_measure_sees_an_outer_product_per_token() -> None:
    k, v = torch.randn(2, T, 1, 16), torch.randn(2, T, 16, 1)
    with LargestTensor() as largest:
        (v * k).sum(1)
    assert largest.bytes == 4 * 2 * T * 16 * 16
