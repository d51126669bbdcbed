"""Does a session that learned still talk as the model did? Asked about things that nobody told it.

Every prompt starts a fresh chat in which only the session's memory is left: a measure of what learning has
changed beyond what was learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_model.attention.memory import Deltas
from hope_model.attention.model import HopeAttention
from hope_model.evaluate.conversation import ChatFormat
from hope_model.evaluate.reader import Branch, BranchingReader, widened

ANSWER_TOKENS = 32
NGRAM = 4
_BATCH = 16
"""Answers judged in one pass: their logits over a vocabulary of 50,000 take 100 MB."""


@dataclass(frozen=True)
class Sanity:
    """One session's figures.

    kl: from the unadapted model's predictions to the session's on the unadapted model's answers, nats/token.
    repetition: share of repeated 4-grams in the session's own answers, 0 to 1.
    """

    kl: float
    repetition: float


class SanityCheck:
    """Prompts with the answers of the unadapted model, to compare sessions with.

    repetition: that of these answers.

    Args:
        prompts: questions of a user.
    """

    def __init__(self, model: HopeAttention, chat: ChatFormat, prompts: Sequence[str]) -> None:
        self._prompts = [chat.question(prompt, None) for prompt in prompts]
        self._stop = chat.stop_ids
        self._model = widened(model, max(map(len, self._prompts)) + ANSWER_TOKENS)
        answers = self._answers(None)
        self.repetition = repetition(answers)
        pairs = list(zip(self._prompts, answers, strict=True))
        self._batches = [_batch(pairs[start : start + _BATCH]) for start in range(0, len(pairs), _BATCH)]
        self._unadapted = [self._outputs(batch, None) for batch in self._batches]

    def measure(self, deltas: Deltas | None) -> Sanity:
        """The figures of a session with the active memory ``deltas`` (``[1, ...]``; None: as the model)."""
        return Sanity(self._kl(deltas), repetition(self._answers(deltas)))

    @torch.inference_mode()
    def _kl(self, deltas: Deltas | None) -> float:
        total, tokens = 0.0, 0
        for batch, unadapted in zip(self._batches, self._unadapted, strict=True):
            expected = self._model.backbone.logits(unadapted).float().log_softmax(-1)
            found = self._model.backbone.logits(self._outputs(batch, deltas)).float().log_softmax(-1)
            total += float((expected.exp() * (expected - found)).sum())
            tokens += len(unadapted)
        return total / tokens

    @torch.inference_mode()
    def _outputs(self, batch: tuple[Tensor, Tensor], deltas: Deltas | None) -> Tensor:
        """The last block's output where answers are predicted, ``[N, D]``."""
        ids, judged = batch
        if deltas is not None:
            deltas = {name: tensor.expand(len(ids), -1, -1) for name, tensor in deltas.items()}
        return self._model.hidden(ids.to(self._model.backbone.device), deltas)[judged]

    def _answers(self, deltas: Deltas | None) -> list[list[int]]:
        return _Fresh(self._model, deltas).answer(self._prompts, ANSWER_TOKENS, self._stop)


class _Fresh(BranchingReader):
    """A chat that has read nothing, with a memory."""

    def __init__(self, model: HopeAttention, deltas: Deltas | None) -> None:
        self.model, self._deltas = model, deltas

    def branch(self, rows: int) -> Branch:
        return Branch(self.model, self.model.new_cache(rows), self._deltas)


def repetition(answers: Sequence[Sequence[int]]) -> float:
    """Share of 4-grams that occurred before in the same answer; 0 where there are none."""
    grams, distinct = 0, 0
    for answer in answers:
        own = [tuple(answer[at : at + NGRAM]) for at in range(len(answer) - NGRAM + 1)]
        grams, distinct = grams + len(own), distinct + len(set(own))
    return 1 - distinct / grams if grams else 0.0


def _batch(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Padded ids ``[B, T]`` of prompt and answer, and where the answer or its end is predicted."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    judged = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        judged[row, len(prompt) - 1 : len(prompt) + len(answer)] = True
    return ids, judged
