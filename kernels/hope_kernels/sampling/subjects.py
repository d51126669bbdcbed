"""Choosing tokens, declared for tests, compilation and timings."""

import torch

from hope_kernels.sampling import choose_tokens
from hope_kernels.subject import Arguments, Maker, Sizes, Subject


def _make(maker: Maker, sizes: Sizes) -> Arguments:
    """Every mixture of cuts among the rows; many logits are equal."""
    rows, vocab = maker.rows, sizes["vocab"]
    several = torch.arange(rows).float()
    return {
        "logits": (4 * maker.normal(rows, vocab)).round() / 4,
        "temperature": maker.like(several % 3 * 0.7),
        "top_k": maker.integers(*((row % 4) * vocab // 5 for row in range(rows))),
        "top_p": maker.like(1 - several % 5 * 0.2),
        "u": maker.uniform(rows),
        "slots": maker.slots(),
    }


SUBJECTS = (
    Subject(
        choose_tokens,
        _make,
        tuple({"vocab": vocab} for vocab in (1, 63, 100, 5000)),
        {"vocab": 49152},
        32,
        by_row=("logits", "temperature", "top_k", "top_p", "u"),
        # Only one row asks for none, one for one and one for two cuts, each some 50 passes.
        again=lambda arguments: 100 * int(arguments["logits"].nbytes),
    ),
)
