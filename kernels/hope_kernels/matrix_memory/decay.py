"""Products of a chunk's retentions: from its start, between its tokens, to its end."""

import torch
from torch import Tensor


class ChunkDecay:
    """Retention of chunks of ``T`` tokens: ``log_alpha [..., T]``, or by channel ``[..., T, K]``.

    A reading sees the memory after its token's write, or, ``strict``, before it. By channel the factor
    between two tokens is split into one for each, which fp32 holds while a chunk's ``log_alpha`` sum up to
    more than -80.
    """

    def __init__(self, log_alpha: Tensor, *, by_channel: bool) -> None:
        self._by_channel = by_channel
        self._log_alpha = log_alpha if by_channel else log_alpha[..., None]
        self._total = self._log_alpha.cumsum(-2)
        self.whole = self._total[..., -1, :].exp()
        """From start to end: ``[..., K]`` or ``[..., 1]``."""

    def from_start(self, reads: Tensor, *, strict: bool) -> Tensor:
        """``reads [..., T, K]`` as they meet the memory of the chunk's start."""
        return reads * (self._total - self._log_alpha if strict else self._total).exp()

    def to_end(self, keys: Tensor) -> Tensor:
        """``keys [..., T, K]`` as they are left at the chunk's end."""
        return keys * (self._total[..., -1:, :] - self._total).exp()

    def scores(self, reads: Tensor, keys: Tensor, *, strict: bool) -> Tensor:
        """What reading ``t`` finds under key ``s``, 0 for ``s > t`` (``s >= t`` if strict):
        ``[..., T, T]``.
        """
        if self._by_channel:
            found = torch.matmul(self.from_start(reads, strict=strict), (keys * (-self._total).exp()).mT)
            return found.tril(-1 if strict else 0)
        return torch.matmul(reads, keys.mT) * self.between(strict=strict)

    def between(self, *, strict: bool) -> Tensor:
        """``prod_{s<j<=t} alpha_j`` (``j < t`` if strict), ``[..., T, T]``, of a whole memory's retention."""
        read, written = self._total[..., 0], self._total[..., 0]
        if strict:
            read = read - self._log_alpha[..., 0]
        future = torch.ones(read.shape[-1], read.shape[-1], dtype=torch.bool, device=read.device)
        # There the difference is positive and may overflow: cut off before the exponential.
        apart = (read[..., :, None] - written[..., None, :]).masked_fill(
            future.triu(0 if strict else 1), -torch.inf
        )
        return apart.exp()
