"""What a request asks of the logits: penalties, biases, tokens that may not come yet."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from hope_server.engine.request import Constraint, SamplingParams


class Steering:
    """Changes the logits of one turn before a token is chosen. It knows the request and the turn's tokens.

    Args:
        params: what was asked for.
        prompt: the turn's own prompt.
        constraint: which tokens may come; where there is one, it says when the turn may end.
    """

    def __init__(
        self, params: SamplingParams, prompt: Iterable[int], constraint: Constraint | None = None
    ) -> None:
        self._params = params
        self._constraint = constraint
        self._sampled: Counter[int] = Counter()
        self._unmarked = list(prompt) if params.repetition_penalty != 1.0 else []
        self._repeated: Tensor | None = None  # [vocab], which tokens stand in the prompt or were sampled
        self._count = 0

    def accept(self, token: int) -> None:
        """``token`` was sampled."""
        self._count += 1
        self._sampled[token] += 1
        self._unmarked.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    @property
    def over(self) -> bool:
        """Nothing may come any more."""
        return self._constraint is not None and self._constraint.over

    def apply(self, logits: Tensor) -> Tensor:
        """The logits to choose from, a new ``[vocab]``; a token that may not come is minus infinity."""
        logits = logits.clone()
        self._penalise(logits)
        if self._params.logit_bias:
            tokens, biases = zip(*self._params.logit_bias, strict=True)
            logits[_index(tokens, logits)] += logits.new_tensor(biases)
        if self._constraint is not None:
            return logits.masked_fill_(_refused(self._constraint, logits), -torch.inf)
        if self._count < self._params.min_tokens and not self._params.ignore_eos:
            logits[_index(self._params.stop_token_ids, logits)] = -torch.inf
        return logits

    def _penalise(self, logits: Tensor) -> None:
        params = self._params
        if params.repetition_penalty != 1.0:
            repeated = self._mark_repeated(logits).nonzero()[:, 0]
            found = logits[repeated]
            penalty = params.repetition_penalty
            logits[repeated] = torch.where(found > 0, found / penalty, found * penalty)
        if self._sampled and (params.presence_penalty or params.frequency_penalty):
            counts = logits.new_tensor(list(self._sampled.values()))
            paid = params.presence_penalty + params.frequency_penalty * counts
            logits[_index(self._sampled, logits)] -= paid

    def _mark_repeated(self, logits: Tensor) -> Tensor:
        """Only what is new since the last token: a long prompt is marked once."""
        if self._repeated is None:
            self._repeated = torch.zeros_like(logits, dtype=torch.bool)
        self._repeated[_index(self._unmarked, logits)] = True
        self._unmarked.clear()
        return self._repeated


def steering_for(
    params: SamplingParams, prompt: Iterable[int], constraint: Constraint | None = None
) -> Steering | None:
    """None where nothing is asked for, so that such a row pays nothing."""
    asked = (
        params.logit_bias,
        params.presence_penalty,
        params.frequency_penalty,
        params.repetition_penalty != 1.0,
        params.min_tokens,
        constraint is not None,
    )
    return Steering(params, prompt, constraint) if any(asked) else None


def _refused(constraint: Constraint, logits: Tensor) -> Tensor:
    bits = torch.frombuffer(bytearray(constraint.allowed()), dtype=torch.uint8)
    places = torch.arange(8, dtype=torch.uint8)
    refused = (bits[:, None] >> places & 1 == 0).flatten()[: len(logits)]
    return refused.to(logits.device)


def _index(tokens: Iterable[int], logits: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64, device=logits.device)
