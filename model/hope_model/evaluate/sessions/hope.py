"""Sessions of a native Hope model, of whatever rule, in this process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.sessions.asking import STOP, Question, Reply, until_stop
from hope_model.hope import Hope
from hope_model.state import State
from hope_model.tokenizer import Tokenizer

RUN = 512
"""Tokens of one call of the model."""
MAX_BRANCH_BYTES = 1 << 28
"""States of branches that exist at one time; there is always one."""


class HopeSubject:
    """See :class:`~hope_model.evaluate.sessions.asking.Subject`; a Hope model has no window to widen."""

    widens = False

    def __init__(self, model: Hope, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    @property
    def rule(self) -> str:
        return self._model.config.rule

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer.encode_batch(list(texts))

    def start(self) -> list[int]:
        return []

    @contextmanager
    def session(self, *, learn: bool) -> "Iterator[HopeSession]":
        yield HopeSession(self._model, self._tokenizer, learn=learn)

    @contextmanager
    def wide(self, tokens: int) -> "Iterator[HopeSession]":
        with self.session(learn=False) as session:
            yield session


class HopeSession:
    """learn=False: as a turn with ``learn: "off"`` on a server; φ, with which the model reads, runs on."""

    def __init__(self, model: Hope, tokenizer: Tokenizer, *, learn: bool) -> None:
        self._model, self._tokenizer, self._learn = model, tokenizer, learn
        self._state = model.initial_state(1)
        self._ends = {tokenizer.eos_id, tokenizer.end_id}

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> None:
        """See ``TextSession``."""
        for at in range(0, len(ids), RUN):
            tokens = torch.tensor([list(ids[at : at + RUN])])
            self._state = self._hidden(tokens, self._state, learn=self._learn)[1]

    @torch.no_grad()
    def ask(self, questions: Sequence[Question], progress: Progress = silent) -> list[Reply]:
        """See ``TextSession``."""
        replies = []
        for question in questions:
            hidden, state = self._hidden(torch.tensor([list(question.prompt)]), self._state, learn=False)
            logits = self._model.logits(hidden[:, -1])
            nats = self._judge(logits, state, question.answers) if question.answers else ()
            text = self._answer(logits, state, question.limit) if question.limit else ""
            replies.append(Reply(nats, text))
            progress("questions", len(replies), len(questions))
        return replies

    def _judge(self, logits: Tensor, state: State, answers: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """``logits [1, vocab]`` after the prompt, at ``state``."""
        first = logits[0].float().log_softmax(-1)
        found = [float(first[answer[0]]) for answer in answers]
        at_once = max(1, MAX_BRANCH_BYTES // self._model.state_spec.row_bytes)
        long = [row for row, answer in enumerate(answers) if len(answer) > 1]
        for start in range(0, len(long), at_once):
            rows = long[start : start + at_once]
            for row, nats in zip(rows, self._rest([answers[row] for row in rows], state), strict=True):
                found[row] += nats
        return tuple(found)

    def _rest(self, answers: Sequence[Sequence[int]], state: State) -> list[float]:
        """Log-likelihoods of all but the first token of each answer."""
        longest = max(map(len, answers))
        # Filled up at the end, where nothing is judged.
        ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers])
        rows = {
            name: tensor.repeat(len(answers), *[1] * (tensor.dim() - 1)) for name, tensor in state.items()
        }
        hidden, _ = self._hidden(ids[:, :-1], rows, learn=False)
        chances = self._model.logits(hidden).float().log_softmax(-1)
        nats = chances.gather(-1, ids[:, 1:, None])[..., 0].double().tolist()
        return [sum(row[: len(answer) - 1]) for row, answer in zip(nats, answers, strict=True)]

    def _answer(self, logits: Tensor, state: State, limit: int) -> str:
        ids: list[int] = []
        still = torch.zeros(1, dtype=torch.bool)
        for _ in range(limit):
            token = logits.argmax(-1)
            if int(token) in self._ends:
                break
            ids.append(int(token))
            if len(ids) == limit or STOP in self._tokenizer.decode(ids):
                break
            logits, state = self._model.step(token, state, still)
        return until_stop(self._tokenizer.decode(ids))

    def _hidden(self, tokens: Tensor, state: State, *, learn: bool) -> tuple[Tensor, State]:
        return self._model.hidden(
            tokens, state, None if learn else torch.zeros_like(tokens, dtype=torch.bool)
        )
