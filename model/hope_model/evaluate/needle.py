"""A needle in a haystack: one sentence hidden in a long text, asked for at its end.

S-NIAH of RULER (the paper's Table 1): the haystack is noise or prose, the needle's value a number, a word or
a UUID. The value is the likeliest of eight, or it is not; the session's own next words hold it, or do not.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.haystack import Haystack
from hope_model.evaluate.rows import Row, RowError, number_of, text_of
from hope_model.evaluate.sessions.asking import Question, Reply

WRONG = 7
"""Wrong answers beside the right one."""
CHANCE = 1 / (1 + WRONG)
SPARE = 8
"""Tokens that a free answer may have beyond the value's own."""
MAX_LENGTH = 1 << 24
"""Tokens of a text, which is held in memory."""
KINDS = ("number", "word", "uuid")
TOWNS = (
    *("Riga", "Oslo", "Lima", "Cairo", "Perth", "Quito", "Hanoi", "Lisbon", "Dublin", "Nairobi", "Kyoto"),
    *(
        "Boston",
        "Geneva",
        "Tunis",
        "Seoul",
        "Vienna",
        "Bergen",
        "Havana",
        "Malta",
        "Delhi",
        "Prague",
        "Zagreb",
    ),
)
WORDS = (
    *(
        "lantern",
        "harbour",
        "violin",
        "saddle",
        "pepper",
        "granite",
        "feather",
        "orchard",
        "compass",
        "velvet",
    ),
    *("thunder", "basket", "copper", "meadow", "anchor", "marble", "candle", "walnut", "helmet", "ribbon"),
    *("barrel", "cactus", "domino", "falcon", "ginger", "hammer", "island", "jacket", "kettle", "ladder"),
)

Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True)
class NeedleSettings:
    """What is hidden, where, and how often. lengths: in tokens. depths: percent of the text before it."""

    kind: str = "number"
    lengths: tuple[int, ...] = (1_024, 2_048, 4_096)
    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    repeats: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind: expected one of {', '.join(KINDS)}, found {self.kind!r}")
        if not self.lengths or any(not 1 <= length <= MAX_LENGTH for length in self.lengths):
            raise ConfigError(
                f"lengths: expected positive numbers of tokens, at most {MAX_LENGTH}, found {self.lengths}"
            )
        if not self.depths or any(not 0 <= depth <= 100 for depth in self.depths):
            raise ConfigError(f"depths: expected percent from 0 to 100, found {self.depths}")
        if self.repeats < 1:
            raise ConfigError(f"repeats: expected at least 1, found {self.repeats}")


@dataclass(frozen=True)
class NeedleText:
    """A text that holds its needle already. length: as its file counts it."""

    length: int
    depth: int
    context: str
    question: str
    answer: str


@dataclass(frozen=True)
class Needle:
    """One session: it reads ``context`` and is asked. answer: the value; it is the first of the answers."""

    length: int
    depth: int
    repeat: int
    context: tuple[int, ...]
    question: Question
    answer: str

    @property
    def key(self) -> dict[str, int]:
        return {"length": self.length, "depth": self.depth, "repeat": self.repeat}

    def found(self, reply: Reply) -> dict[str, object]:
        """What the reply says, for the records."""
        return {
            "likeliest": reply.best() == 0,
            "greedy": self.answer.lower() in reply.text.lower(),
            "nats": [round(each, 4) for each in reply.nats],
            "text": reply.text,
        }


def parse_needle(row: Row) -> NeedleText:
    """``words`` (or ``length``), ``depth``, ``context``, ``question``, ``answer``."""
    length = number_of(row, "length" if "length" in row else "words")
    found = NeedleText(
        length,
        number_of(row, "depth"),
        text_of(row, "context"),
        text_of(row, "question"),
        text_of(row, "answer"),
    )
    if not 0 <= found.depth <= 100:
        raise RowError(f"percent from 0 to 100 as 'depth', found {found.depth}")
    if found.answer.lower() not in found.context.lower():
        raise RowError(f"the 'answer' {found.answer!r} in 'context', found none")
    return found


def hidden_needles(settings: NeedleSettings, haystack: Haystack, encode: Encode) -> Iterator[Needle]:
    """Every length and depth, ``repeats`` times; each needle has its own value, and its own part of the text.

    Raises:
        DataError: a length that the haystack cannot give.
    """
    for length in settings.lengths:
        for depth in settings.depths:
            for repeat in range(settings.repeats):
                rng = random.Random(f"{settings.seed}/{settings.kind}/{length}/{depth}/{repeat}")
                town, (value, *wrong) = rng.choice(TOWNS), _values(settings.kind, rng)
                (needle,) = encode([f"The secret {settings.kind} for {town} is {value}. "])
                context = haystack.hide(length, [(depth / 100, needle)], rng)
                asked = _question(f"What is the secret {settings.kind} for {town}?", (value, *wrong), encode)
                yield Needle(length, depth, repeat, context, asked, value)


def needles_of(
    texts: Sequence[NeedleText], encode: Encode, *, limit: int | None, seed: int
) -> Iterator[Needle]:
    """The texts of a file, at most ``limit`` of each length and depth; wrong answers are those of others.

    Raises:
        DataError: fewer different answers than one question needs.
    """
    answers = sorted({text.answer for text in texts})
    if len(answers) <= WRONG:
        raise DataError(f"answers: expected {WRONG + 1} different ones at least, found {len(answers)}")
    seen: dict[tuple[int, int], int] = {}
    for number, text in enumerate(texts):
        place = (text.length, text.depth)
        repeat = seen[place] = seen.get(place, -1) + 1
        if limit is not None and repeat >= limit:
            continue
        rng = random.Random(f"{seed}/{number}")
        wrong = rng.sample([answer for answer in answers if answer != text.answer], WRONG)
        asked = _question(text.question, (text.answer, *wrong), encode)
        (context,) = encode([text.context])
        yield Needle(*place, repeat, tuple(context), asked, text.answer)


def _question(question: str, answers: Sequence[str], encode: Encode) -> Question:
    """The question with the beginning of its answer, where the form of the question gives one."""
    named = re.fullmatch(r"What is (.)(.+)\?", question)
    begun = f" {named[1].upper()}{named[2]} is" if named else ""
    prompt, *ids = encode([f"\n\nQuestion: {question}\nAnswer:{begun}", *(f" {each}" for each in answers)])
    return Question(tuple(prompt), tuple(map(tuple, ids)), len(ids[0]) + SPARE)


def _values(kind: str, rng: random.Random) -> list[str]:
    """The right value and the wrong ones, all different."""
    if kind == "word":
        return rng.sample(WORDS, 1 + WRONG)
    if kind == "number":
        return [str(number) for number in rng.sample(range(10**6, 10**7), 1 + WRONG)]
    return [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(1 + WRONG)]
