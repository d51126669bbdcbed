"""Long chats that should stay sane: scripted turns, the model's own answers, and figures along the way."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
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
    scripts: Sequence[Sequence[str]],
    *,
    learn: bool = True,
    answer_tokens: int = 24,
    every: int = 20,
    progress: Progress = silent,
) -> list[list[Milestone]]:
    """Sessions side by side, each served as ever: it reads each message and its own greedy answer.

    Args:
        scripts: what each session's user says; all have as many turns.
        answer_tokens: an answer is cut there.
        every: turns between milestones; the first one is that of the unadapted model.

    Returns:
        Each session's milestones.

    Raises:
        ConfigError: ``answer_tokens`` or ``every`` below 1, or scripts of unequal lengths.
    """
    if answer_tokens < 1 or every < 1:
        raise ConfigError(f"answer_tokens, every: expected at least 1, found {answer_tokens}, {every}")
    lengths = sorted({len(messages) for messages in scripts})
    if len(lengths) > 1:
        raise ConfigError(f"scripts: expected as many turns in each, found {lengths}")
    chats = _Chats(model, chat, len(scripts), learn)
    answers: list[list[list[int]]] = [[] for _ in scripts]
    milestones = [[chats.milestone(row, [], [])] for row in range(len(scripts))]
    for turn, messages in enumerate(zip(*scripts, strict=True), start=1):
        progress("chatting", turn, lengths[0])
        for own, answer in zip(answers, chats.turn(messages, answer_tokens), strict=True):
            own.append(answer)
        if turn % every == 0 or turn == lengths[0]:
            for row, own in enumerate(answers):
                start = milestones[row][-1].turns
                milestones[row].append(chats.milestone(row, own[:start], own[start:]))
    return milestones


class _Chats:
    def __init__(self, model: HopeAttention, chat: ChatFormat, count: int, learn: bool) -> None:
        self._model, self._chat = model, chat
        self._rows = SessionRows(model, count, learn=learn)
        self._last: list[LastToken | None] = [None] * count
        self._canary = torch.tensor([chat.tokenizer.encode(CANARY)], device=model.backbone.device)

    def turn(self, messages: Sequence[str], limit: int) -> list[list[int]]:
        """Read each session's message and answer it; the end of an answer is read but not returned."""
        logits = [self._read(row, message) for row, message in enumerate(messages)]
        answers: list[list[int]] = [[] for _ in messages]
        talking = list(range(len(messages)))
        for _ in range(limit):
            tokens = [int(logits[row].argmax()) for row in talking]
            for row, token, found in zip(talking, tokens, self._rows.decode(talking, tokens), strict=True):
                logits[row], self._last[row] = found, LastToken(token, "model")
                if token not in self._chat.stop_ids:
                    answers[row].append(token)
            talking = [
                row for row, token in zip(talking, tokens, strict=True) if token not in self._chat.stop_ids
            ]
            if not talking:
                break
        self._learn()
        return answers

    def _read(self, row: int, message: str) -> Tensor:
        """The logits after the message, ``[vocab]``."""
        for origin, ids in self._chat.render([Message("user", message)], self._last[row]):
            at = 0
            while at < len(ids):
                end = at + self._rows.room(row)
                logits = self._rows.read(row, ids[at:end], [origin] * len(ids[at:end]))
                at = end
        return logits

    def _learn(self) -> None:
        """What the sessions have begun, together: their slices share passes."""
        while rows := [row for row in range(len(self._last)) if self._rows.slices(row)]:
            self._rows.work(rows)

    @torch.inference_mode()
    def milestone(self, row: int, before: Sequence[list[int]], answers: Sequence[list[int]]) -> Milestone:
        """Of a session, after the answers ``before`` an earlier milestone and those since."""
        turns = len(before) + len(answers)
        echoes = sum(answer in (*before, *answers[:at]) for at, answer in enumerate(answers))
        _, deltas = self._rows.branch(row, 1)
        logits = self._model.forward(self._canary[:, :-1], deltas)[0].float()
        nats = float(F.cross_entropy(logits, self._canary[0, 1:]))
        return Milestone(
            turns=turns,
            tokens=self._rows.position(row),
            repetition=repetition(answers),
            echoes=echoes / max(1, len(answers)),
            canary=nats,
            drift=self._rows.drift(row),
        )
