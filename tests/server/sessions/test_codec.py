"""The state codec: exact, deterministic, bounded, and strict about everything it did not write."""

from hashlib import sha256

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_model.state import LevelSpec, State, StateSpec, TensorSpec
from hope_server.errors import SnapshotCorrupt
from hope_server.sessions.codec import HEAD, PART_RAW_BYTES, decode_row, encode_row

LEVELS = (LevelSpec("phi", 1), LevelSpec("cms-64", 64), LevelSpec("slow", None))
SPEC = StateSpec(
    tensors=(
        TensorSpec("memory.0", "phi", (3, 5)),
        TensorSpec("delta.0", "cms-64", (4,)),
        TensorSpec("memory.1", "phi", (3, 5), torch.bfloat16),
        TensorSpec("nothing", "phi", (0, 2)),
        TensorSpec("writes", "counters", (2,), torch.int64),
        TensorSpec("position", "counters", (), torch.int64),
    ),
    levels=LEVELS,
)


def random_row(spec: StateSpec, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        t.name: torch.randn((1, *t.shape), generator=generator).mul(1000).to(t.dtype) for t in spec.tensors
    }


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def sealed(body: bytes) -> bytes:
    return body + sha256(body).digest()


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8])


@st.composite
def specs(draw: st.DrawFn) -> StateSpec:
    count = draw(st.integers(1, 6))
    tensors = [
        TensorSpec(f"t{at}", draw(st.sampled_from(["a", "b"])), draw(SHAPES), draw(DTYPES))
        for at in range(count)
    ]
    return StateSpec(tuple(tensors), LEVELS)


@given(specs(), st.integers(0, 2**50))
def test_round_trip_is_exact(spec: StateSpec, seq: int) -> None:
    row = random_row(spec, seed=seq % 1000)
    assert equal(decode_row(spec, encode_row(spec, row, seq), seq), row)


def test_strided_row_round_trips() -> None:
    row = random_row(SPEC, 1)
    row["memory.0"] = torch.randn(5, 3, 1).permute(2, 1, 0)
    assert equal(decode_row(SPEC, encode_row(SPEC, row, 5), 5), row)


def test_only_changed_levels_get_new_parts() -> None:
    row = random_row(SPEC, 1)
    before = encode_row(SPEC, row, 5)
    assert encode_row(SPEC, row, 5) == before
    row["memory.0"] = row["memory.0"] + 1
    after = encode_row(SPEC, row, 6)
    assert {name for name in after if after[name] != before[name]} == {HEAD, "phi.0"}


def test_levels_are_cut_into_parts_of_bounded_size() -> None:
    quarter = PART_RAW_BYTES // 16
    tensors = [TensorSpec(f"t{at}", "phi", (quarter,)) for at in range(9)]
    spec = StateSpec((*tensors, TensorSpec("large", "phi", (2 * PART_RAW_BYTES // 4 + 1,))), LEVELS)
    parts = encode_row(spec, spec.zeros(1), 1)
    assert sorted(parts) == [HEAD, "phi.0", "phi.1", "phi.2", "phi.3"]
    assert equal(decode_row(spec, parts, 1), spec.zeros(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_refused_both_ways(value: float) -> None:
    spec = StateSpec((TensorSpec("t", "phi", (4,)),), LEVELS)
    row = spec.zeros(1)
    row["t"][0, 2] = value
    with pytest.raises(SnapshotCorrupt, match="finite values in t"):
        encode_row(spec, row, 1)
    planes = row["t"].view(torch.uint8).reshape(4, 4).T.contiguous().numpy().tobytes()
    with pytest.raises(SnapshotCorrupt, match="finite values in t"):
        decode_row(spec, _with_frame(spec, zstandard.compress(planes)), 1)


def _with_frame(spec: StateSpec, frame: bytes) -> dict[str, bytes]:
    """Parts whose checksums are right and whose only part holds ``frame``."""
    parts = encode_row(spec, spec.zeros(1), 1)
    part = sealed(parts["phi.0"][:52] + frame)
    head = parts[HEAD][:52] + sha256(part).digest()
    return {HEAD: sealed(head), "phi.0": part}


def test_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    spec = StateSpec((TensorSpec("t", "phi", (4,)),), LEVELS)
    honest = zstandard.compress(bytes(1 << 28))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))
    exact = zstandard.compress(bytes(16))
    assert equal(decode_row(spec, _with_frame(spec, exact), 1), spec.zeros(1))
    for frame in (honest, silent, exact + exact, exact + b"tail", exact[:-1], b"", b"noise"):
        with pytest.raises(SnapshotCorrupt):
            decode_row(spec, _with_frame(spec, frame), 1)


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "rows"])
def test_row_that_does_not_fit_is_a_bug_of_the_caller(change: str) -> None:
    row = random_row(SPEC, 1)
    broken = {
        "shape": row["memory.0"].reshape(1, 5, 3),
        "dtype": row["memory.0"].double(),
        "missing": None,
        "rows": row["memory.0"].expand(2, 3, 5),
    }[change]
    if broken is None:
        del row["memory.0"]
    else:
        row["memory.0"] = broken
    with pytest.raises(ValueError, match=r"expected memory\.0"):
        encode_row(SPEC, row, 1)


def test_other_layout_is_refused() -> None:
    parts = encode_row(SPEC, random_row(SPEC, 1), 1)
    swapped = StateSpec((SPEC.tensors[2], *SPEC.tensors[1:2], SPEC.tensors[0], *SPEC.tensors[3:]), LEVELS)
    other_period = StateSpec(SPEC.tensors, (LevelSpec("phi", 2), *LEVELS[1:]))
    for spec in (swapped, other_period):
        with pytest.raises(SnapshotCorrupt, match="layout"):
            decode_row(spec, parts, 1)


def test_parts_of_two_generations_do_not_mix() -> None:
    one, two = encode_row(SPEC, random_row(SPEC, 1), 1), encode_row(SPEC, random_row(SPEC, 2), 2)
    with pytest.raises(SnapshotCorrupt, match="one snapshot"):
        decode_row(SPEC, {**two, "phi.0": one["phi.0"]}, 2)
    with pytest.raises(SnapshotCorrupt, match="at 1"):
        decode_row(SPEC, two, 1)


@settings(max_examples=300)
@given(st.data())
def test_damaged_parts_raise_only_the_declared_error(data: st.DataObject) -> None:
    parts = dict(encode_row(SPEC, random_row(SPEC, 3), 9))
    name = data.draw(st.sampled_from(sorted(parts)))
    good = parts[name]
    at = data.draw(st.integers(0, len(good) - 1))
    bit = bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))])
    flipped = good[:at] + bit + good[at + 1 :]
    resealed = sealed(flipped[:-32])
    damaged = data.draw(st.sampled_from([flipped, resealed, good[:at], sealed(good[:at]), good + b"\0", b""]))
    parts[name] = damaged
    if damaged == good:
        return
    if name != HEAD and data.draw(st.booleans()):
        parts = _rehead(parts)
    try:
        row = decode_row(SPEC, parts, 9)
    except SnapshotCorrupt:
        return
    # Every checksum was forged: what comes out must still be a row of the layout.
    assert {n: (t.shape, t.dtype) for n, t in row.items()} == {
        t.name: ((1, *t.shape), t.dtype) for t in SPEC.tensors
    }
    assert resealed == damaged


def _rehead(parts: "dict[str, bytes]") -> "dict[str, bytes]":
    digests = b"".join(sha256(data).digest() for name, data in parts.items() if name != HEAD)
    return {**parts, HEAD: sealed(parts[HEAD][:52] + digests)}


@given(
    st.dictionaries(st.sampled_from([HEAD, "phi.0", "cms-64.0", "counters.0", "x"]), st.binary(max_size=200))
)
def test_foreign_bytes_are_no_state(parts: "dict[str, bytes]") -> None:
    with pytest.raises(SnapshotCorrupt):
        decode_row(SPEC, parts, 1)
