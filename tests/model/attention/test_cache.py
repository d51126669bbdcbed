"""The ring of keys and values: to read through it is to read the text, however cut, wherever it lies."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.attention.tiny import BLOCK, BOTH_WAYS, PREFIX, WINDOW, as_deltas, config, text, tiny_model
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention.cache import Row, WindowCache
from hope_model.attention.config import GRID
from hope_model.attention.model import HopeAttention

LENGTH = BLOCK + 40
"""More than the ring holds."""
CUTS = st.sets(st.integers(1, LENGTH - 1), max_size=12).map(sorted)


def tokens(length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.tensor(text(length, seed).tokens)


def random_deltas(model: HopeAttention, rows: int = 1) -> dict[str, Tensor]:
    state = model.state_spec.zeros(rows)
    return as_deltas(model, {name: 0.3 * torch.randn_like(value.float()) for name, value in state.items()})


def read(
    model: HopeAttention,
    ids: Tensor,
    cuts: list[int],
    *,
    prefix: int = 0,
    deltas: dict[str, Tensor] | None = None,
    cache: WindowCache | None = None,
    row: int = 0,
) -> Tensor:
    """Logits ``[T, vocab]`` of one row, read in runs that end at ``cuts`` and at every GRID tokens."""
    cache = cache or model.new_cache(1)
    cache.rows[row].prefix = prefix
    ends = sorted({0, *cuts, *range(GRID, len(ids), GRID), len(ids)})
    parts = [model.read(cache, [row], ids[None, start:end], deltas) for start, end in pairwise(ends)]
    return model.backbone.logits(torch.cat(parts, dim=1)[0]).float()


@torch.inference_mode()
@pytest.mark.parametrize("learned", [False, True], ids=["theta", "deltas"])
@settings(max_examples=6)
@given(cuts=CUTS)
def test_a_text_read_in_cuts_is_the_text(learned: bool, cuts: list[int]) -> None:
    model, ids = tiny_model(torch.float32), tokens()
    deltas = random_deltas(model) if learned else None
    found = read(model, ids, cuts, deltas=deltas)
    expected = model.forward(ids[None], deltas, window=WINDOW)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_token_by_token_past_the_rings_end() -> None:
    model, ids = tiny_model(torch.float32), tokens()
    found = read(model, ids, list(range(LENGTH)))
    torch.testing.assert_close(found, model.forward(ids[None], window=WINDOW)[0], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_deltas_and_the_window_matter() -> None:
    """Else the tests above would not see them."""
    model, ids = tiny_model(torch.float32), tokens()
    plain = model.forward(ids[None], window=WINDOW)
    assert float((model.forward(ids[None], random_deltas(model), window=WINDOW) - plain).abs().max()) > 0.1
    wider = model.forward(ids[None])
    assert torch.equal(wider[:, :WINDOW], plain[:, :WINDOW])
    assert float((wider - plain).abs().max()) > 0.1


@torch.inference_mode()
def test_the_prefix_may_grow_while_it_is_read() -> None:
    """A session learns token by token what is pinned."""
    model, ids = tiny_model(torch.float32), tokens()
    cache = model.new_cache(1)
    logits = [read(model, ids[:7], [], prefix=0, cache=cache)]
    logits.append(read(model, ids[7:30], [], prefix=7, cache=cache))
    logits.append(read(model, ids[30:], [], prefix=30, cache=cache))
    expected = read(model, ids, [], prefix=30)
    torch.testing.assert_close(torch.cat(logits), expected, rtol=0, atol=1e-4)
    assert float((expected - read(model, ids, [], prefix=7)).abs().max()) > 0.1


@torch.inference_mode()
@BOTH_WAYS
@settings(max_examples=8)
@given(cuts=CUTS, prefix=st.integers(0, PREFIX))
def test_in_bf16_no_bit_depends_on_the_cuts(compiled: bool, cuts: list[int], prefix: int) -> None:
    """Of the logits and of all that the cache holds."""
    model, ids = tiny_model(compiled=compiled), tokens()
    deltas = random_deltas(model)
    caches = [model.new_cache(1) for _ in range(2)]
    expected = read(model, ids, [], prefix=prefix, deltas=deltas, cache=caches[0])
    found = read(model, ids, cuts, prefix=prefix, deltas=deltas, cache=caches[1])
    assert torch.equal(found, expected), "this machine's kernels are not row-invariant"
    assert same_row(caches[0], 0, caches[1], 0)


def tensors(cache: WindowCache) -> list[Tensor]:
    return [*cache.keys, *cache.values, cache.hidden, cache.outputs]


def same_row(one: WindowCache, row: int, other: WindowCache, other_row: int) -> bool:
    """Equal in the slots that both have, empty in all others."""
    held = min(one.size, other.size)
    pairs = zip(tensors(one), tensors(other), strict=True)
    return one.rows[row] == other.rows[other_row] and all(
        torch.equal(mine[row][..., :held, :], theirs[other_row][..., :held, :])
        and not mine[row][..., held:, :].any()
        and not theirs[other_row][..., held:, :].any()
        for mine, theirs in pairs
    )


@torch.inference_mode()
@BOTH_WAYS
@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 2], [1]], ids=str)
def test_in_bf16_no_bit_depends_on_the_batch(rows: list[int], compiled: bool) -> None:
    """Rows at other positions, with other prefixes and deltas; adjacent in the cache or not."""
    model, lengths, prefixes = tiny_model(compiled=compiled), (250, 3, 130), (PREFIX, 0, 12)
    deltas = random_deltas(model, 3)
    texts = [tokens(length + 20, seed) for seed, length in enumerate(lengths)]
    own = [{name: value[row : row + 1] for name, value in deltas.items()} for row in range(3)]
    cache, lonely = model.new_cache(3), [model.new_cache(1) for _ in range(3)]
    expected = []
    for row, length in enumerate(lengths):
        for place, into in ((row, cache), (0, lonely[row])):
            read(model, texts[row][:length], [], prefix=prefixes[row], deltas=own[row], cache=into, row=place)
        rest = texts[row][length:]
        expected.append(read(model, rest, [], prefix=prefixes[row], deltas=own[row], cache=lonely[row]))
    for step in range(20):
        ids = torch.stack([texts[row][lengths[row] + step, None] for row in rows])
        x = model.read(cache, rows, ids, {name: value[rows] for name, value in deltas.items()})
        logits = model.backbone.logits(x[:, 0]).float()
        assert torch.equal(logits, torch.stack([expected[row][step] for row in rows]))
    assert all(same_row(cache, row, lonely[row], 0) for row in rows)


@torch.inference_mode()
@BOTH_WAYS
def test_a_row_alone_changes_in_its_cache(compiled: bool) -> None:
    model = tiny_model(compiled=compiled)
    cache = model.new_cache(3)
    cache.reserve(cache.capacity)
    for tensor in tensors(cache):
        tensor.normal_()
    before = [tensor.clone() for tensor in tensors(cache)]
    read(model, tokens(), [], cache=cache, row=1)
    assert all(torch.equal(now[[0, 2]], old[[0, 2]]) for now, old in zip(tensors(cache), before, strict=True))
    assert [row.read for row in cache.rows] == [0, LENGTH, 0]


def full_of_nan(cache: WindowCache) -> WindowCache:
    """Every row has read as much as it holds."""
    cache.reserve(cache.capacity)
    for tensor in tensors(cache):
        tensor.fill_(float("nan"))
    for row in cache.rows:
        row.read = cache.capacity
    return cache


WHOLE = pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.compiler)], ids=["growing", "whole"]
)


@torch.inference_mode()
@WHOLE
def test_a_row_is_copied_and_cleared_as_a_whole(whole: bool) -> None:
    model = tiny_model()
    cache, other = model.new_cache(2), full_of_nan(model.new_cache(3, whole=whole))
    read(model, tokens(), [], prefix=9, cache=cache, row=1)
    other.copy(2, cache, 1)
    assert same_row(other, 2, cache, 1)
    other.rows[2].read += 1
    assert cache.rows[1] == Row(9, LENGTH)
    assert all(bool(tensor[:2].isnan().all()) for tensor in tensors(other))
    other.clear(2)
    assert other.rows[2] == Row()
    assert all(not bool(tensor[2].any()) for tensor in tensors(other))


@torch.inference_mode()
@pytest.mark.compiler
def test_a_whole_cache_holds_what_one_that_grows_does() -> None:
    """Each row in one piece, and nothing where nothing was read. A row is first cleared from
    end to end.
    """
    model = tiny_model()
    whole, growing = model.new_cache(3, whole=True), model.new_cache(3)
    assert whole.size == whole.capacity > growing.size
    for tensor in tensors(whole):
        tensor.fill_(float("nan"))
    for row in range(3):
        whole.clear(row)
    found, expected = (
        read(model, tokens(), [70], prefix=9, cache=cache, row=1) for cache in (whole, growing)
    )
    assert torch.equal(found, expected)
    assert same_row(whole, 1, growing, 1)
    assert not any(bool(tensor[row].any()) for tensor in tensors(whole) for row in (0, 2))
    whole.clear(1)
    assert not any(bool(tensor.any()) for tensor in tensors(whole))


@torch.inference_mode()
def test_a_cache_grows_for_what_is_read_or_copied_and_keeps_its_rows() -> None:
    model = tiny_model()
    cache, small = model.new_cache(2), model.new_cache(1)
    read(model, tokens(20), [], cache=cache, row=0)
    assert cache.size == GRID
    before = [tensor[0].clone() for tensor in tensors(cache)]
    read(model, tokens(), [], cache=cache, row=1)
    assert cache.size == cache.span([1], 0) > GRID
    for now, old in zip(tensors(cache), before, strict=True):
        assert torch.equal(now[0][..., :GRID, :], old)
    small.copy(0, cache, 1)
    assert small.size == cache.size
    assert same_row(small, 0, cache, 1)


@torch.inference_mode()
@WHOLE
def test_a_shorter_row_is_copied_over_a_longer_one(whole: bool) -> None:
    model = tiny_model()
    cache, short = full_of_nan(model.new_cache(1, whole=whole)), model.new_cache(1)
    read(model, tokens(20), [], cache=short, row=0)
    cache.copy(0, short, 0)
    assert same_row(cache, 0, short, 0)


@given(
    prefixes=st.lists(st.integers(0, PREFIX), min_size=1, max_size=3),
    reads=st.lists(st.integers(0, 3 * LENGTH), min_size=3, max_size=3),
    count=st.integers(1, GRID),
)
def test_what_is_seen_is_what_the_slots_hold(prefixes: list[int], reads: list[int], count: int) -> None:
    """Against a ring that is written token by token: every position in sight is held by a slot that is
    looked at, and no other slot is.
    """
    cache = WindowCache(config(), 3, torch.float32, torch.device("cpu"))
    rows = list(range(len(prefixes)))
    held = torch.full((len(rows), cache.capacity), -1)
    for row, prefix in enumerate(prefixes):
        cache.rows[row].prefix = prefix
        for position in range(reads[row] + count):
            cache.rows[row].read = position
            (slot,) = cache.slots(row, 1).tolist()
            assert slot == cache.slot_of(row, position)
            held[row, slot] = position
        cache.rows[row].read = reads[row]
    span = cache.span(rows, count)
    assert span == cache.capacity or span % GRID == 0
    before = torch.tensor([reads[row] for row in rows])
    queries = before[:, None] + torch.arange(count)
    bias = cache.bias(rows, queries, before + count, span)
    assert bias.shape == (len(rows), count, span)
    for row, prefix in enumerate(prefixes):
        assert torch.equal(
            cache.slots(row, count), torch.tensor([cache.slot_of(row, int(q)) for q in queries[row]])
        )
        for token in (0, count - 1):
            query = int(queries[row, token])
            found = set(held[row, :span][bias[row, token] == 0].tolist())
            window = range(max(0, query - WINDOW + 1), query + 1)
            assert found == {*range(min(prefix, query + 1)), *window}
    assert set(bias.unique().tolist()) <= {0.0, -torch.inf}


@torch.inference_mode()
@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 5])
def test_a_cache_for_which_there_is_no_room_stays_as_it_was(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its tensors it is that does not fit."""
    cache = tiny_model().new_cache(2)
    cache.reserve(GRID)
    before, pad = tensors(cache), F.pad
    left = allowed

    def short(tensor: Tensor, more: tuple[int, ...]) -> Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return pad(tensor, more)

    monkeypatch.setattr(F, "pad", short)
    with pytest.raises(MemoryError):
        cache.reserve(2 * GRID)
    assert cache.size == GRID
    assert all(one is other for one, other in zip(tensors(cache), before, strict=True))
