"""Reading by the compiled kernel: as the layers read in fp32, whatever shares the launch; and without it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.model.attention.tiny import (
    WINDOW,
    as_deltas,
    backbone_config,
    build,
    config,
    level,
    memory_config,
    random_weights,
    text,
    tiny_model,
)
from tests.model.instructions import WITHOUT_AMX, with_other_instructions
from torch import Tensor

from hope_kernels import dispatch
from hope_kernels.cpu.build import BuildError
from hope_kernels.cpu.frozen import FrozenWeights
from hope_kernels.cpu.reader import Reader
from hope_model.attention import compiled
from hope_model.attention.cache import WindowCache
from hope_model.attention.checkpoint import attention_weights_sha256
from hope_model.attention.compiled import OPERATION
from hope_model.attention.config import GRID, HopeAttentionConfig
from hope_model.attention.model import HopeAttention
from hope_model.attention.quantize import KINDS, bits_of

pytestmark = pytest.mark.compiler
EVERYWHERE = ("gate_proj", "up_proj", "down_proj")

CONFIGS = {
    "tiny": config(),
    "usual head": replace(config(), backbone=backbone_config(heads=3, kv_heads=1, head_width=64)),
    "wide head": replace(config(), backbone=backbone_config(heads=2, kv_heads=2, head_width=128, width=68)),
    "five share": replace(config(), backbone=backbone_config(heads=10, kv_heads=2, head_width=34)),
    "norms and biases": replace(
        config(),
        backbone=backbone_config(
            qk_norm=True, qkv_bias=True, output_bias=True, mlp_bias=True, tied_head=False, no_rope_layers=(1,)
        ),
    ),
    "memory everywhere": replace(
        config(),
        memory=memory_config(
            level(projections=EVERYWHERE[:2], first_layer=0, rank=5),
            level(name="later", projections=EVERYWHERE[2:], last_layer=1, rank=18),
        ),
    ),
}


def both(config: HopeAttentionConfig) -> tuple[HopeAttention, HopeAttention]:
    """The kernel's model, and one in fp32 of the same weights."""
    weights = {
        name: tensor if name.startswith("memory.") else tensor.bfloat16().float()
        for name, tensor in random_weights(config).items()
    }
    with torch.inference_mode(False):
        own = HopeAttention(config, weights)
        plain = HopeAttention(config, weights, dtype=torch.float32)
    assert own.reader is not None
    assert plain.reader is None
    return own, plain


def deltas_for(model: HopeAttention, rows: int, size: float = 0.3) -> dict[str, Tensor]:
    state = model.state_spec.zeros(rows)
    make = torch.Generator().manual_seed(5)
    random = {name: size * torch.randn(tensor.shape, generator=make) for name, tensor in state.items()}
    return as_deltas(model, random)


def run_of(
    model: HopeAttention, cache: WindowCache, lengths: list[int], deltas: dict[str, Tensor]
) -> list[Tensor]:
    """Rows that begin one after the other and go on together: what each launch gives."""
    found = []
    for row, length in enumerate(lengths):
        cache.rows[row].prefix = 5 * row
        own = {name: delta[row : row + 1] for name, delta in deltas.items()}
        for part in torch.tensor([text(length, row).tokens]).split(GRID, 1):
            found.append(model.read(cache, [row], part, own))
    for step in range(6):
        ids = torch.tensor([[(7 * step + 3 * row) % 61] for row in range(len(lengths))])
        found.append(model.read(cache, range(len(lengths)), ids, deltas))
    return found


@torch.inference_mode()
@pytest.mark.parametrize("kind", CONFIGS)
def test_it_reads_as_layers_in_fp32_do(kind: str) -> None:
    """Rings past their end, rows of ragged lengths; what is kept as well as what comes out."""
    own, plain = both(CONFIGS[kind])
    caches, lengths = [own.new_cache(3), plain.new_cache(3)], [1, 63, 300]
    deltas = deltas_for(own, 3)
    wide = {name: delta.float() for name, delta in deltas.items()}
    found = run_of(own, caches[0], lengths, deltas)
    expected = run_of(plain, caches[1], lengths, wide)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, torch.float32)
        assert float((mine - theirs).norm() / theirs.norm()) < 0.02
    for mine, theirs in zip(*(cache.tensors() for cache in caches), strict=True):
        assert float((mine.float() - theirs).norm() / theirs.norm()) < 0.02
        assert torch.equal(mine == 0, theirs == 0), "other slots were written"


@torch.inference_mode()
def test_what_a_row_learned_is_its_own_and_a_row_without_any_reads_none() -> None:
    model = tiny_model()
    deltas = deltas_for(model, 4)
    ids = torch.tensor([[11], [11], [11]])
    slots = torch.tensor([3, -1, 0])
    found = model.read(model.new_cache(3), range(3), ids, deltas, slots=slots)
    for place, slot in enumerate(slots.tolist()):
        own = None if slot < 0 else {name: delta[slot : slot + 1] for name, delta in deltas.items()}
        assert torch.equal(found[place : place + 1], model.read(model.new_cache(1), [0], ids[:1], own))
    shared = {name: delta[:1].expand(3, -1, -1) for name, delta in deltas.items()}
    assert torch.equal(model.read(model.new_cache(3), range(3), ids, shared)[1], found[2])


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    config = replace(CONFIGS["tiny"], backbone=backbone_config(head_width=16, mlp_width=96))
    with torch.inference_mode(False):
        model = HopeAttention(config, random_weights(config), quantize=bits_of(kind))
    deltas = deltas_for(model, 3)
    runs = []
    for threads in (1, 2, 3, 40):
        torch.set_num_threads(threads)
        cache = model.new_cache(3)
        runs.append([*run_of(model, cache, [2, 70, 150], deltas), *cache.tensors()])
    assert all(torch.equal(*pair) for run in runs[1:] for pair in zip(run, runs[0], strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_gates_that_are_taken_at_once_have_the_bits_of_those_that_wait(kind: str) -> None:
    """Nothing learned, and deltas of zeros: gates wait for these. Runs of one share of rows, and of two."""
    backbone = backbone_config(head_width=16, mlp_width=128, mlp_bias=True)
    config = replace(CONFIGS["memory everywhere"], backbone=backbone)
    with torch.inference_mode(False):
        model = HopeAttention(config, random_weights(config), quantize=bits_of(kind))
    zeros = {name: torch.zeros_like(delta) for name, delta in deltas_for(model, 3).items()}
    ids = torch.tensor([text(70, row).tokens for row in range(3)])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for part in (ids[:, :1], ids[:, :17], ids):
            at_once, waiting = (model.read(model.new_cache(3), range(3), part, own) for own in (None, zeros))
            assert torch.equal(at_once, waiting)


@torch.inference_mode()
def test_a_row_that_is_not_finite_is_so_alone() -> None:
    model = tiny_model()
    deltas = deltas_for(model, 3)
    caches = [model.new_cache(3) for _ in range(2)]
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]])
    expected = model.read(caches[0], range(3), ids, deltas)
    for delta in deltas.values():
        delta[1].fill_(torch.nan)
    found = model.read(caches[1], range(3), ids, deltas)
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(*(c.tensors() for c in caches), strict=True))


@torch.inference_mode()
def test_what_was_in_the_rings_is_not_seen() -> None:
    """Slots of other tokens, and of none."""
    model = tiny_model()
    caches = [model.new_cache(1) for _ in range(2)]
    for tensor in caches[1].tensors():
        tensor.fill_(torch.nan)
    ids = torch.tensor([text(60).tokens])
    assert torch.equal(*(model.read(cache, [0], ids, None) for cache in caches))


@with_other_instructions(WITHOUT_AMX)
def test_other_instructions_keep_the_rules(
    compiled_with: Callable[..., None], flags: tuple[str, ...]
) -> None:
    """The machine's own are in all other tests. Products are tried when a model is built."""
    compiled_with(*flags)
    config = replace(CONFIGS["tiny"], backbone=backbone_config(heads=6, head_width=64, mlp_width=96))
    for kind in KINDS:
        with torch.inference_mode(False):
            model = HopeAttention(config, random_weights(config), quantize=bits_of(kind))
        assert model.reader is not None, kind
        ids = torch.tensor([text(WINDOW + 70, row).tokens for row in range(6)])
        with torch.inference_mode():
            cache, alone = model.new_cache(6), model.new_cache(1)
            whole = torch.cat([model.read(cache, range(6), part, None) for part in ids.split(33, 1)], 1)
            parts = [model.read(alone, [0], part, None) for part in ids[4:5].split(7, 1)]
            assert torch.equal(torch.cat(parts, 1)[0], whole[4]), kind


@pytest.mark.usefixtures("fresh_dispatch")
def test_without_a_compiler_torch_reads_loudly_and_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(source: str) -> None:
        raise BuildError("no C compiler: expected cc or gcc or clang on PATH")

    told: list[str] = []
    dispatch.observe_fallbacks(lambda name, _error: told.append(name))
    monkeypatch.setattr(compiled, "load", none)
    models = [build(config()) for _ in range(2)]
    assert all(model.reader is None and model.backbone.head.compiled is None for model in models)
    assert told == [OPERATION]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [OPERATION in record.message and "no C compiler" in record.message for record in errors] == [True]
    assert OPERATION in dispatch.operations()


@pytest.mark.parametrize("how", ["other numbers", "not a number"])
@pytest.mark.usefixtures("fresh_dispatch")
def test_a_kernel_that_differs_from_the_layers_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reader.read

    def wrong(self: Reader, *arguments: Any) -> Tensor:
        x = read(self, *arguments)
        return x.roll(1, -1) if how == "other numbers" else x * torch.nan

    monkeypatch.setattr(Reader, "read", wrong)
    assert build(config()).reader is None
    assert dispatch.fallbacks() == (OPERATION,)


@pytest.mark.usefixtures("fresh_dispatch")
def test_products_that_are_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    product = FrozenWeights.product
    monkeypatch.setattr(FrozenWeights, "product", lambda self, x: product(self, x) * 1.01)
    model = build(config())
    assert model.reader is None
    assert model.backbone.head.compiled is None
    assert dispatch.fallbacks() == (OPERATION,)


def test_only_bf16_is_compiled_and_only_if_wanted() -> None:
    assert tiny_model(torch.float32).reader is None
    assert tiny_model(compiled=False).reader is None
    assert tiny_model().reader is not None


def test_one_model_has_one_digest_on_all_machines() -> None:
    """What was learned with the kernel can be taken up without, and the other way."""
    config = replace(CONFIGS["tiny"], backbone=backbone_config(head_width=16, mlp_width=96))
    for kind in KINDS:
        models = [
            HopeAttention(config, random_weights(config), quantize=bits_of(kind), compiled=flag)
            for flag in (True, False)
        ]
        own, other = (dict(model.frozen()) for model in models)
        assert own.keys() == other.keys()
        assert [name for name in own if not torch.equal(own[name], other[name])] == []
        assert attention_weights_sha256(models[0]) == attention_weights_sha256(models[1])


@pytest.mark.parametrize(
    "changes",
    [{"tokens": [61]}, {"tokens": [-1]}, {"rows": [1]}, {"positions": [10**6]}, {"positions": [-1]}],
)
def test_nothing_leads_out_of_the_tables(
    changes: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read = tiny_model(), Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, places, *rest: read(self, replace(places, **changes), *rest)
    )
    with pytest.raises(IndexError, match="expected numbers from 0 to"):
        model.read(model.new_cache(1), [0], torch.tensor([[3]]), None)


@torch.inference_mode()
def test_a_launch_for_which_there_is_no_room_leaves_the_next_ones_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that fails to get scratch goes on with the layout of what it has."""
    model = tiny_model()
    one, many = torch.tensor([[11]]), torch.tensor([text(GRID, 1).tokens])
    expected = model.read(model.new_cache(1), [0], one, None)
    wide, reader = model.new_cache(1), model.reader
    wide.reserve(GRID)
    assert reader is not None
    reader._lines, reader._capacity = 0, 0
    scratch = reader._scratch
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", _no_memory)
        with pytest.raises(MemoryError):
            model.read(wide, [0], many, None)
    assert (reader._lines, reader._capacity) == (0, 0)
    assert reader._scratch is scratch
    assert torch.equal(model.read(model.new_cache(1), [0], one, None), expected)


def _no_memory(*_size: Any, **_options: Any) -> Tensor:
    raise MemoryError
