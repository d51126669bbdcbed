"""A chunk of writes to a matrix memory whose gradients are known beforehand (E39).

``S_t = beta_t S_{t-1} + w_t k_t^T``, ``D_t = alpha_t D_{t-1} + S_t - eta_t ((base + D_{t-1}) k_t) k_t^T``:
retention, momentum and, with ``eta``, an erasure along the key. Without momentum ``S_t = w_t k_t^T``. A
reader meets ``base + D_t``, or ``base + D_{t-1}`` if it is strict.

Axes before the last two are broadcast: matrices that share keys and gates share what is made of these.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hope_kernels.delta_memory.triangular import inverse_with_gradient
from hope_kernels.matrix_memory.decay import ChunkDecay


@dataclass(frozen=True)
class Met:
    """What reading ``t`` meets: of write ``s``, ``mix [.., T, T]``, and of what was erased at ``s``,
    ``kept [.., T, T]``; of the memory at the chunk's start, ``start [.., T]``, and of its momentum, ``lead``.

    Without momentum ``mix`` is ``kept``, and ``lead`` None.
    """

    mix: Tensor
    kept: Tensor
    start: Tensor
    lead: Tensor | None


class ChunkMix:
    """How much of each write a reader meets: retention and momentum of ``T`` tokens, for any matrix.

    Args:
        log_alpha: ``[..., T]`` logarithm of the retention.
        log_beta: ``[..., T]`` of the momentum; None for none.
    """

    def __init__(self, log_alpha: Tensor, log_beta: Tensor | None = None) -> None:
        kept = ChunkDecay(log_alpha, by_channel=False).between(strict=False)
        mix, lead, self.momentum, self.momentum_start = kept, None, None, None
        if log_beta is not None:
            self.momentum = ChunkDecay(log_beta, by_channel=False).between(strict=False)
            self.momentum_start = log_beta.cumsum(-1).exp()
            mix = torch.matmul(kept, self.momentum)
            lead = torch.matmul(kept, self.momentum_start[..., None])[..., 0]
        self.after = Met(mix, kept, log_alpha.cumsum(-1).exp(), lead)
        """What a reader meets after its token's write."""

    @cached_property
    def before(self) -> Met:
        """What a strict reader meets: what the reader a token before met after its own write."""
        after = self.after
        kept = _later(after.kept, 0.0)
        return Met(
            mix=kept if self.momentum is None else _later(after.mix, 0.0),
            kept=kept,
            start=_later(after.start[..., None], 1.0)[..., 0],
            lead=None if after.lead is None else _later(after.lead[..., None], 0.0)[..., 0],
        )


class Erasure:
    """What tokens erase of every matrix that meets their keys.

    Args:
        mix: of the chunk.
        k: ``[..., T, K]`` keys. eta: ``[..., T]`` share of what is read that is erased.
    """

    def __init__(self, mix: ChunkMix, k: Tensor, eta: Tensor) -> None:
        scores, self._share = torch.matmul(k, k.mT), -eta[..., None]
        self._written = scores * mix.before.mix
        erased = self._written if mix.momentum is None else scores * mix.before.kept
        self._inverse = inverse_with_gradient(self._share * erased)

    def of(self, start: Tensor, w: Tensor) -> Tensor:
        """What is written under each key for its erasure, ``[..., T, V]``: of what the key reads of the
        memory at the chunk's start, ``start``, and of the writes ``w`` since.
        """
        return torch.matmul(self._inverse, self._share * (start + torch.matmul(self._written, w)))


class LayerWrites:
    """One matrix of a memory over a chunk.

    Args:
        mix: of the chunk.
        delta, momentum: ``[B, ..., V, K]`` at its start; momentum None where ``mix`` has none.
        base: ``[..., V, K]``.
        k: ``[B, ..., T, K]`` keys. w: ``[B, ..., T, V]`` what is written under them.
        erasure: along ``k``; None for none.
    """

    def __init__(
        self,
        mix: ChunkMix,
        delta: Tensor,
        momentum: Tensor | None,
        base: Tensor,
        *,
        k: Tensor,
        w: Tensor,
        erasure: Erasure | None = None,
    ) -> None:
        self._mix, self._delta, self._momentum, self._base = mix, delta, momentum, base
        self._k, self._w = k, w
        self._erased = None if erasure is None else erasure.of(self._start(k, mix.before), w)
        if self._erased is not None and mix.momentum is None:  # both are met alike: one write
            self._w, self._erased = self._w + self._erased, None

    def read(self, x: Tensor, *, strict: bool) -> Tensor:
        """``x [B, ..., T, K]`` -> ``[B, ..., T, V]``, each token by the memory as it meets it."""
        met = self._mix.before if strict else self._mix.after
        scores = torch.matmul(x, self._k.mT)
        found = self._start(x, met) + torch.matmul(scores * met.mix, self._w)
        if self._erased is not None:
            found = found + torch.matmul(scores * met.kept, self._erased)
        return found

    def end(self) -> tuple[Tensor, Tensor | None]:
        """``(delta', momentum')`` after the last token."""
        mix, met = self._mix, self._mix.after
        written = met.mix[..., -1, :, None] * self._w
        if self._erased is not None:
            written = written + met.kept[..., -1, :, None] * self._erased
        delta = met.start[..., -1, None, None] * self._delta + torch.matmul(written.mT, self._k)
        if self._momentum is None or mix.momentum is None:
            return delta, None
        assert met.lead is not None
        assert mix.momentum_start is not None
        delta = delta + met.lead[..., -1, None, None] * self._momentum
        gathered = torch.matmul((mix.momentum[..., -1, :, None] * self._w).mT, self._k)
        return delta, mix.momentum_start[..., -1, None, None] * self._momentum + gathered

    def _start(self, x: Tensor, met: Met) -> Tensor:
        """What ``x`` reads of memory and momentum as they were at the chunk's start."""
        found = torch.matmul(x, self._base.mT) + torch.matmul(x * met.start[..., None], self._delta.mT)
        if self._momentum is not None and met.lead is not None:
            found = found + torch.matmul(x * met.lead[..., None], self._momentum.mT)
        return found


def _later(rows: Tensor, first: float) -> Tensor:
    """``rows [..., T, N]`` a token later; the first becomes ``first``."""
    return torch.cat((torch.full_like(rows[..., :1, :], first), rows[..., :-1, :]), dim=-2)
