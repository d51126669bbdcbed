"""Choosing a token from logits; chance is a function of (seed, position), so a replay chooses the same."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hope_kernels.cpu.draw import best, draw
from hope_kernels.cpu.draw import look as look_by_kernel
from hope_kernels.sampling import choose_tokens
from hope_server.engine.request import SamplingParams

LEAST = torch.finfo(torch.float32).min

_MASK = (1 << 64) - 1


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1), of 53 bits, that belongs to a seed and a position (splitmix64, keyed twice)."""
    return (_mix(_mix(seed & _MASK) ^ _mix(position + 0x9E3779B97F4A7C15)) >> 11) * 2.0**-53


def choose(logits: Tensor, params: SamplingParams, u: float, first: int | None = None) -> int:
    """The token for ``u`` in [0, 1).

    Args:
        logits: ``[vocab]`` fp32, finite.
        params: temperature 0 takes the best; otherwise the distribution at that temperature is cut to the
        ``top_k``
            best, then to the smallest set of best tokens that holds ``top_p`` of what is left.
        u: position in the cumulative distribution.
        first: the first of the largest, where it is known.
    """
    if params.temperature == 0.0:
        found = best(logits) if first is None else first
        return int(logits.argmax()) if found is None else found
    if logits.is_cuda:
        return choose_on_device(logits, params, u)
    if not cuts(params, len(logits)) and (drawn := draw(logits, params.temperature, u, first)) is not None:
        return drawn
    kept, tokens = candidates(logits, params)
    cumulative = kept.cumsum(0)
    index = int(torch.searchsorted(cumulative, u * cumulative[-1], right=True))
    index = min(index, len(kept) - 1)
    return int(tokens[index]) if tokens is not None else index


def choose_on_device(logits: Tensor, params: SamplingParams, u: float) -> int:
    """:func:`choose` by the kernel of ``hope_kernels.sampling``: what leaves the device is the token alone.

    It goes through the tokens best first, also where nothing is cut: ``u`` then stands for another token than
    on a CPU. On a CPU, where logits are sorted for it, the slower of both. A token that may not come, minus
    infinity, gets a finite logit that leaves it no weight: the kernel refuses what is not finite.
    """
    device = logits.device

    def one(value: float, kind: torch.dtype) -> Tensor:
        return torch.tensor([value], dtype=kind, device=device)

    chosen = choose_tokens(
        logits.float().clamp_min(LEAST)[None],
        one(params.temperature, torch.float32),
        one(params.top_k, torch.int64),
        one(params.top_p, torch.float32),
        one(u, torch.float32),
        one(0, torch.int64),
    )
    return int(chosen[0])


class Look(NamedTuple):
    """finite: whether logits hold no infinity and no NaN. best: the first of the largest, where it was found
    on the way.
    """

    finite: bool
    best: int | None = None


def look(logits: Sequence[Tensor]) -> list[Look]:
    """At each of some ``[vocab]`` of one size and kind."""
    found = look_by_kernel(logits)
    if found is not None:
        return [Look(best >= 0, best if best >= 0 else None) for best in found]
    return list(map(Look, torch.isfinite(torch.stack(list(logits))).all(-1).tolist()))


def candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Weights in fp64 (not normalised) and their tokens, best first; None stands for all tokens in order."""
    # Subtracting the best before dividing keeps a tiny temperature from overflowing.
    scaled = (logits.double() - logits.max()) / params.temperature
    if not cuts(params, len(scaled)):
        return scaled.exp(), None
    few = 0 < params.top_k < len(scaled)
    scaled, tokens = scaled.topk(params.top_k) if few else scaled.sort(descending=True, stable=True)
    weights = scaled.exp()
    if params.top_p < 1.0:
        before = weights.cumsum(0) - weights
        count = max(1, int((before < params.top_p * weights.sum()).sum()))
        weights, tokens = weights[:count], tokens[:count]
    return weights, tokens


def cuts(params: SamplingParams, vocab: int) -> bool:
    """Whether some of the tokens are out of the question."""
    return 0 < params.top_k < vocab or params.top_p < 1.0


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
