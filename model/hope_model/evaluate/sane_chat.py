"""A long chat that should stay sane: scripted turns, the model's own answers, and figures along the way."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch.nn import functional as F

from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import SessionRows
from hope_model.convert.progress import Progress, silent
from hope_model.errors import ConfigError
from hope_model.evaluate.conversation import ChatFormat, LastToken, Message
from hope_model.evaluate.facts import invent_people
from hope_model.evaluate.filler import FILLER
from hope_model.evaluate.sanity import repetition
from hope_model.evaluate.unrelated import PROMPTS

CANARY = (
    "The harbour lay quiet under a thin layer of mist. A man in a grey coat walked along the quay, counted "
    "the boxes that had arrived during the night and wrote their number into a small book. Behind him, the "
    "first tram of the day turned the corner with a long squeal. Two hours later the market would open, and "
    "nobody would remember how still it had been. He closed the book, looked at the water once more, and "
    "went home to his breakfast."
)
"""Read by none of the turns. What a session makes of it says whether it can still read."""


@dataclass(frozen=True)
class Milestone:
    """How a session stands.

    turns, tokens: that it has read. repetition: share of repeated 4-grams in the answers since the last
    milestone. echoes: share of these answers that had been given before, word for word. canary: nats per
    token of :data:`CANARY` with the session's memory. drift: by level, norm of the deltas over the norm of
    the weights that they change.
    """

    turns: int
    tokens: int
    repetition: float
    echoes: float
    canary: float
    drift: Mapping[str, float]


def script(turns: int, seed: int = 0) -> list[str]:
    """Messages of a user who chats, asks and tells about themselves; 200 different ones, then again."""
    told = [person.told for person in invent_people(50, 2, seed, FILLER)]
    messages = [*(user for user, _ in FILLER), *PROMPTS, *told]
    random.Random(seed).shuffle(messages)
    return list(islice(cycle(messages), turns))


def chat_along(
    model: HopeAttention,
    chat: ChatFormat,
    messages: Sequence[str],
    *,
    learn: bool = True,
    answer_tokens: int = 24,
    every: int = 20,
    progress: Progress = silent,
) -> list[Milestone]:
    """One session, served as ever: it reads each message and its own greedy answer.

    Args:
        answer_tokens: an answer is cut there.
        every: turns between milestones; the first one is that of the unadapted model.

    Raises:
        ConfigError: ``answer_tokens`` or ``every`` below 1.
    """
    if answer_tokens < 1 or every < 1:
        raise ConfigError(f"answer_tokens, every: expected at least 1, found {answer_tokens}, {every}")
    session = _Session(model, chat, learn)
    milestones, answers = [session.milestone([], [])], list[list[int]]()
    for turn, message in enumerate(messages, start=1):
        progress("chatting", turn, len(messages))
        answers.append(session.turn(message, answer_tokens))
        if turn % every == 0 or turn == len(messages):
            start = milestones[-1].turns
            milestones.append(session.milestone(answers[:start], answers[start:]))
    return milestones


class _Session:
    def __init__(self, model: HopeAttention, chat: ChatFormat, learn: bool) -> None:
        self._model, self._chat = model, chat
        self._rows = SessionRows(model, 1, learn=learn)
        self._last: LastToken | None = None
        self._canary = torch.tensor([chat.tokenizer.encode(CANARY)], device=model.backbone.device)

    def turn(self, message: str, limit: int) -> list[int]:
        """Read ``message`` and answer it; the end of an answer is read but not returned."""
        for origin, ids in self._chat.render([Message("user", message)], self._last):
            at = 0
            while at < len(ids):
                end = at + self._rows.room(0)
                logits = self._rows.read(0, ids[at:end], [origin] * len(ids[at:end]))
                at = end
        answer: list[int] = []
        for _ in range(limit):
            token = int(logits.argmax())
            logits = self._rows.decode([0], [token])[0]
            self._last = LastToken(token, "model")
            if token in self._chat.stop_ids:
                break
            answer.append(token)
        return answer

    @torch.inference_mode()
    def milestone(self, before: Sequence[list[int]], answers: Sequence[list[int]]) -> Milestone:
        """After the answers ``before`` an earlier milestone and those since."""
        turns = len(before) + len(answers)
        echoes = sum(answer in (*before, *answers[:at]) for at, answer in enumerate(answers))
        _, deltas = self._rows.branch(0, 1)
        logits = self._model.forward(self._canary[:, :-1], deltas)[0].float()
        nats = float(F.cross_entropy(logits, self._canary[0, 1:]))
        return Milestone(
            turns=turns,
            tokens=self._rows.position(0),
            repetition=repetition(answers),
            echoes=echoes / max(1, len(answers)),
            canary=nats,
            drift=self._rows.drift(0),
        )
