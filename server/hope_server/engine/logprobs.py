"""Log-probabilities of tokens, in nats, from the logits of the model itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_server.engine.request import TokenLogprob


def score(logits: Tensor, tokens: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """What ``logits [n, vocab]`` say of the ``n`` tokens that came; ``top`` alternatives each.

    A token that is the best one has exactly the number of the best alternative.
    """
    nats = logits.float().log_softmax(dim=-1)
    chosen = nats.gather(1, torch.tensor(tokens, device=nats.device)[:, None])[:, 0].tolist()
    best, ids = nats.topk(min(top, nats.shape[1]), dim=-1)
    rows = zip(tokens, chosen, ids.tolist(), best.tolist(), strict=True)
    return tuple(TokenLogprob(token, own, tuple(zip(*most, strict=True))) for token, own, *most in rows)


class PromptScores:
    """Scores a prompt that is read in pieces; ``top`` alternatives of each token."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._last: Tensor | None = None

    def read(self, tokens: Sequence[int], logits: Tensor) -> tuple[TokenLogprob, ...]:
        """``logits [n, vocab]`` came after each of the ``n`` tokens, which the piece before predicts."""
        before, self._last = self._last, logits[-1:]
        if before is None:
            return (TokenLogprob(tokens[0], None, ()), *score(logits[:-1], tokens[1:], self._top))
        return score(torch.cat([before, logits[:-1]]), tokens, self._top)
