"""Inputs that are nearly good: a seed with some of its bytes changed, cut out, doubled or moved."""

from __future__ import annotations

from hypothesis import strategies as st

INTERESTING = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\x80",
    b'"',
    b"{",
    b"[" * 40,
    b"\n",
)


@st.composite
def edited(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed after up to four edits."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.sampled_from(("flip", "put", "cut", "double", "end"))):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "put":
                data[start:end] = draw(st.one_of(st.sampled_from(INTERESTING), st.binary(max_size=8)))
            case "cut":
                del data[start:end]
            case "double":
                data[start:start] = data[start:end] * draw(st.integers(1, 50))
            case "end":
                del data[start:]
    return bytes(data)


def inputs(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Mostly near a seed, sometimes anything."""
    return st.one_of(edited(seeds), edited(seeds), st.binary(max_size=300))
