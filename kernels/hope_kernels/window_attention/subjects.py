"""Attention of one token a row, declared for tests, compilation and timings."""

import torch

from hope_kernels.subject import Arguments, Maker, Sizes, Subject
from hope_kernels.window_attention import decode_attention
from hope_kernels.window_attention.reference import cached_attention


def _make(maker: Maker, sizes: Sizes) -> Arguments:
    heads, groups, span, width = (sizes[name] for name in ("heads", "groups", "span", "width"))
    bias = torch.zeros(maker.rows, 1, span)
    bias[:, :, 1 : span // 3] = -torch.inf  # the pinned prefix is in sight, then a gap
    return {
        "queries": maker.normal(maker.rows, heads, 1, width, dtype=maker.dtype) * width**-0.5,
        "keys": maker.slab(groups, span, width, dtype=maker.dtype),
        "values": maker.slab(groups, span, width, dtype=maker.dtype),
        "bias": bias.to(maker.integers(0).device),
        "slots": maker.slots(),
    }


SUBJECTS = (
    Subject(
        decode_attention,
        _make,
        (
            {"heads": 3, "groups": 3, "span": 1, "width": 16},
            {"heads": 6, "groups": 2, "span": 63, "width": 10},
            {"heads": 9, "groups": 3, "span": 100, "width": 64},
            {"heads": 2, "groups": 1, "span": 200, "width": 33},
        ),
        {"heads": 9, "groups": 3, "span": 448, "width": 64},
        32,
        read=("keys", "values"),
        by_row=("queries", "bias"),
        dtypes=(torch.float32, torch.bfloat16),
        tolerance={torch.float32: 2e-5, torch.bfloat16: 2e-2},
        expected=cached_attention,
    ),
)
