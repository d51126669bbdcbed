"""A chunk of writes to a matrix memory whose gradients are known beforehand (E39).

``S_t = beta_t S_{t-1} + w_t k_t^T``, ``D_t = alpha_t D_{t-1} + S_t - eta_t ((base + D_{t-1}) k_t) k_t^T``:
retention, momentum and, with ``eta``, an erasure along the key. Without momentum ``S_t = w_t k_t^T``. A
reader meets ``base + D_t``, or ``base + D_{t-1}`` if it is strict.
"""

import torch
from torch import Tensor

from hope_kernels.delta_memory.triangular import inverse_with_gradient
from hope_kernels.matrix_memory.decay import ChunkDecay


class ChunkMix:
    """How much of each write a reader meets: retention and momentum of ``T`` tokens, for any matrix of a
    head.

    Args:
        log_alpha: ``[B, H, T]`` logarithm of the retention.
        log_beta: ``[B, H, T]`` of the momentum; None for none.
    """

    def __init__(self, log_alpha: Tensor, log_beta: Tensor | None = None) -> None:
        decay = ChunkDecay(log_alpha, by_channel=False)
        self.kept = decay.between(strict=False)
        self.kept_strict = decay.between(strict=True)
        self.start = log_alpha.cumsum(-1).exp()
        self.mix, self.lead, self.momentum, self.momentum_start = self.kept, None, None, None
        if log_beta is not None:
            self.momentum = ChunkDecay(log_beta, by_channel=False).between(strict=False)
            self.momentum_start = log_beta.cumsum(-1).exp()
            self.mix = torch.matmul(self.kept, self.momentum)
            self.lead = torch.matmul(self.kept, self.momentum_start[..., None])[..., 0]

    def weights(self, *, strict: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """``(mix [.., T, T], start [.., T], lead [.., T] or None, kept [.., T, T])`` as readers meet them."""
        if not strict:
            return self.mix, self.start, self.lead, self.kept
        lead = None if self.lead is None else _later(self.lead[..., None], 0.0)[..., 0]
        return _later(self.mix, 0.0), _later(self.start[..., None], 1.0)[..., 0], lead, self.kept_strict


class LayerWrites:
    """One matrix of a memory over a chunk.

    Args:
        mix: of the chunk.
        delta, momentum: ``[B, H, V, K]`` at its start; momentum None where ``mix`` has none.
        base: ``[H, V, K]``.
        k: ``[B, H, T, K]`` keys. w: ``[B, H, T, V]`` what is written under them.
        eta: ``[B, H, T]`` share of what is read that is erased; None for none.
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
        eta: Tensor | None = None,
    ) -> None:
        self._mix, self._delta, self._momentum, self._base = mix, delta, momentum, base
        self._k, self._w = k, w
        self._erased: Tensor | None = None
        if eta is not None:
            own = -eta[..., None] * torch.matmul(k, k.mT) * mix.kept_strict
            right = -eta[..., None] * self.read(k, strict=True)
            self._erased = torch.matmul(inverse_with_gradient(own), right)

    def read(self, x: Tensor, *, strict: bool) -> Tensor:
        """``x [B, H, T, K]`` -> ``[B, H, T, V]``, each token by the memory as it meets it."""
        mix, start, lead, kept = self._mix.weights(strict=strict)
        scores = torch.matmul(x, self._k.mT)
        found = torch.matmul(x, self._base.mT) + torch.matmul(x * start[..., None], self._delta.mT)
        found = found + torch.matmul(scores * mix, self._w)
        if self._momentum is not None and lead is not None:
            found = found + torch.matmul(x * lead[..., None], self._momentum.mT)
        if self._erased is not None:
            found = found + torch.matmul(scores * kept, self._erased)
        return found

    def end(self) -> tuple[Tensor, Tensor | None]:
        """``(delta', momentum')`` after the last token."""
        mix = self._mix
        written = mix.mix[..., -1, :, None] * self._w
        if self._erased is not None:
            written = written + mix.kept[..., -1, :, None] * self._erased
        delta = mix.start[..., -1, None, None] * self._delta + torch.matmul(written.mT, self._k)
        if self._momentum is None or mix.momentum is None:
            return delta, None
        assert mix.lead is not None
        assert mix.momentum_start is not None
        delta = delta + mix.lead[..., -1, None, None] * self._momentum
        gathered = torch.matmul((mix.momentum[..., -1, :, None] * self._w).mT, self._k)
        return delta, mix.momentum_start[..., -1, None, None] * self._momentum + gathered


def _later(rows: Tensor, first: float) -> Tensor:
    """``rows [..., T, N]`` a token later; the first becomes ``first``."""
    return torch.cat((torch.full_like(rows[..., :1, :], first), rows[..., :-1, :]), dim=-2)
