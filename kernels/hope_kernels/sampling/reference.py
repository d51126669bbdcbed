"""Plain torch form of choosing tokens: the logits are sorted."""

import torch
from torch import Tensor


def choose_tokens(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, u: Tensor, slots: Tensor
) -> Tensor:
    """The token of each row for its ``u``.

    The distribution at ``temperature`` is cut to the ``top_k`` best tokens, then to the smallest set of best
    ones that holds ``top_p`` of what is left; of these, best first, the one in which ``u`` of their weight is
    reached. Equal logits are in the order of their tokens.

    Args:
        logits: ``[B, vocab]``, finite.
        temperature: ``[B]``; 0 takes the best.
        top_k: ``[B]`` int64; 0 for all. top_p: ``[B]`` in (0, 1]. u: ``[B]`` in [0, 1).
        slots: ``[B]`` int64; -1 for a padded row.

    Returns:
        ``[B]`` int64; -1 for a row whose logits are not finite, 0 for a padded one.
    """
    vocab = logits.shape[1]
    wide, tokens = logits.double().sort(dim=1, descending=True, stable=True)
    heat = torch.where(temperature > 0, temperature, 1.0).double()[:, None]
    weights = ((wide - wide[:, :1]) / heat).exp()
    rank = torch.arange(vocab, device=logits.device)
    kept = torch.where(top_k > 0, top_k, vocab)[:, None]
    weights = torch.where(rank < kept, weights, 0)
    before = weights.cumsum(1) - weights
    whole = (top_p >= 1)[:, None] | (before < top_p.double()[:, None] * weights.sum(1, keepdim=True))
    weights = torch.where(whole | (rank == 0), weights, 0)
    reached = weights.cumsum(1) <= u.double()[:, None] * weights.sum(1, keepdim=True)
    last = (weights > 0).sum(1, keepdim=True) - 1
    index = torch.minimum(reached.sum(1, keepdim=True), last)
    index = torch.where(temperature[:, None] > 0, index, 0)
    chosen = tokens.gather(1, index.clamp_min(0))[:, 0]
    return torch.where(slots < 0, 0, torch.where(logits.isfinite().all(1), chosen, -1))
