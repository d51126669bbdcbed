"""People who do not exist: what they tell about themselves, and questions with eight possible answers."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hope_model.errors import ConfigError
from hope_model.evaluate.fact_kinds import KINDS, Kind

WRONG = 7
"""Wrong answers beside the right one."""

Exchange = tuple[str, str]
"""A user's message and the answer to it."""


@dataclass(frozen=True)
class Question:
    """One fact, asked for.

    answers: the right one first. words: what a free answer must hold, in any order, to contain the fact.
    above_fresh: answers are compared by how much likelier they are than in a fresh chat, since they differ
    in length and in how common they are.
    """

    kind: str
    text: str
    answers: tuple[str, ...]
    words: tuple[str, ...]
    above_fresh: bool = False


@dataclass(frozen=True)
class Person:
    """Whom one session meets.

    told: the message with all facts. filler: what is talked about after it, again and again.
    """

    told: str
    questions: tuple[Question, ...]
    filler: Sequence[Exchange]


def invent_people(count: int, facts: int, seed: int, filler: Sequence[Exchange]) -> list[Person]:
    """``count`` people with ``facts`` facts of different kinds each, by seed and number alone.

    Args:
        filler: exchanges that none of the facts occurs in; each person has them in an order of its own.

    Raises:
        ConfigError: no person, or other than 1 to ``len(KINDS)`` facts.
    """
    if count < 1:
        raise ConfigError(f"people: expected at least 1, found {count}")
    if not 1 <= facts <= len(KINDS):
        raise ConfigError(f"facts per person: expected 1 to {len(KINDS)}, found {facts}")
    return [_invent(random.Random(f"{seed}/{number}"), facts, filler) for number in range(count)]


def contains(text: str, words: Sequence[str]) -> bool:
    """Whether all of ``words`` occur in ``text`` as words, in upper or lower case."""
    found = set(re.findall(r"\w+", text.lower()))
    return all(word.lower() in found for word in words)


def _invent(rng: random.Random, facts: int, filler: Sequence[Exchange]) -> Person:
    statements, questions = [], []
    for kind in rng.sample(KINDS, facts):
        value, *wrong = rng.sample(kind.values, 1 + WRONG)
        statements.append(kind.statement.format(value))
        questions.append(_question(kind, value, wrong))
    return Person(" ".join(statements), tuple(questions), rng.sample(filler, len(filler)))


def _question(kind: Kind, value: str, wrong: Sequence[str]) -> Question:
    answers = tuple(kind.answer.format(each) for each in (value, *wrong))
    return Question(kind.name, kind.question, answers, (value,))
