"""The decode step of both families on a GPU that is not there: no host tensor meets a device's, kernels are
launched, and nothing asks a tensor for its values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.model.attention.tiny import build as build_attention
from tests.model.attention.tiny import config as attention_config
from tests.model.small import EACH_RULE, Parts, small_model
from torch import Tensor
from torch.nn import Parameter

from hope_kernels.fake_gpu import GPU, fake_gpu, on_fake_gpu
from hope_kernels.packed_linear import packed
from hope_model.attention.model import HopeAttention
from hope_model.state import State

KINDS = [Parts(write_rule=rule) for rule in ("sgd", "momentum", "adam")] + EACH_RULE


@contextmanager
def gpu(launched: list[str]) -> Iterator[Callable[[Any], Any]]:
    """How to move anything there; names of kernels are appended to ``launched``."""

    def watch(kernel: Any, *_launch: Any) -> None:
        while not hasattr(kernel, "__name__"):
            kernel = kernel.fn
        launched.append(kernel.__name__)

    with fake_gpu(watch) as mode:

        def there(tensor: Tensor, _memo: Any) -> Tensor:
            return on_fake_gpu(tensor, mode)

        with patch.object(Tensor, "__deepcopy__", there), patch.object(Parameter, "__deepcopy__", there):
            yield copy.deepcopy


def attention_model(monkeypatch: pytest.MonkeyPatch) -> HopeAttention:
    monkeypatch.setattr(
        packed, "can_pack", lambda _weight, *, single=False: False
    )  # weights stay as a GPU has them
    return build_attention(attention_config(), compiled=False)


@pytest.mark.parametrize("parts", KINDS, ids=str)
def test_a_native_step_in_place(parts: Parts) -> None:
    launched: list[str] = []
    model = small_model(parts, torch.float32)
    slab, tokens, slots = model.initial_state(5), torch.zeros(3, dtype=torch.int64), torch.tensor([4, -1, 0])
    with gpu(launched) as move, torch.no_grad():
        logits = move(model).step_rows(move(tokens), move(slab), move(slots))
        assert logits.device == GPU
        assert logits.shape == (3, 31)
    layers, levels = model.config.layers, len(model.config.levels)
    assert launched.count("step_rows") == launched.count("write_rows") == layers * levels
    assert launched.count("step_head") == (layers if parts.rule == "delta" else 0)


@pytest.mark.parametrize("parts", KINDS, ids=str)
def test_a_native_step_of_values(parts: Parts) -> None:
    """The same kernels, on a copy: the state that was passed in stays as it was."""
    launched: list[str] = []
    model = small_model(parts, torch.float32)
    state, tokens = model.initial_state(2), torch.zeros(2, dtype=torch.int64)
    with gpu(launched) as move, torch.no_grad():
        before = move(state)
        logits, after = move(model).step(move(tokens), before)
        assert logits.device == GPU
        _assert_like(after, state)
        assert all(tensor is not before[name] for name, tensor in after.items())
    assert "write_rows" in launched


def test_a_block_pass_goes_through_chunks() -> None:
    """A block of the model at a known phase, as a whole pass has it: 3 tokens, a chunk of 8, 5 tokens."""
    launched: list[str] = []
    model = small_model(Parts(), torch.float32)
    state = {name[9:]: x for name, x in model.initial_state(1).items() if name.startswith("layers.0.")}
    with gpu(launched) as move, torch.no_grad():
        x, after, _ = move(model).blocks[0](torch.zeros(1, 16, 16, device=GPU), move(state), 5)
        assert x.device == GPU
        _assert_like(after, state)
    assert launched == ["chunk_lines"] * 6


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_read_of_hope_attention(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    model = attention_model(monkeypatch)
    cache, rows = model.new_cache(4), [0, 2, 3]
    active = {
        site.name: torch.zeros(4, *site.shape, dtype=model.backbone.dtype) for site in model.memory.sites
    }
    ids = torch.zeros(len(rows), tokens, dtype=torch.int64)
    with gpu(launched) as move, torch.no_grad():
        there = move(model)
        slots = torch.tensor(rows, device=GPU)
        x = there.read(move(cache), rows, move(ids), move(active), slots=slots)
        assert there.backbone.logits(x[:, 0]).device == GPU
    assert launched.count("attend") == model.config.backbone.layers
    assert launched.count("read_row") == len(model.memory.sites)


def test_the_geometry_and_a_text_without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attention_model(monkeypatch)
    with gpu([]) as move, torch.no_grad():
        logits = move(model).forward(torch.zeros(2, 7, dtype=torch.int64, device=GPU))
        assert logits.device == GPU


def test_a_host_tensor_is_found() -> None:
    model = small_model(Parts(), torch.float32)
    state, slots = model.initial_state(3), torch.arange(3)
    with gpu([]) as move, torch.no_grad():
        on_host = torch.zeros(3, dtype=torch.int64)
        with pytest.raises(RuntimeError, match="cpu"):
            move(model).step_rows(on_host, move(state), move(slots))


def _assert_like(state: State, expected: State) -> None:
    assert {name: (x.shape, x.dtype) for name, x in state.items()} == {
        name: (x.shape, x.dtype) for name, x in expected.items()
    }
