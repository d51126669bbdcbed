"""Personas and chats from a file: what somebody tells, and what two people talk about.

A row of the file is an object with three texts: ``p1`` and ``p2``, the sentences of two people, one on a
line, and ``chat``, lines that begin with "User 1:" or "User 2:".

A persona's sentences are told as the user's own words. Each is then looked for by cloze: after the question
:data:`ASK`, the told sentence stands against seven sentences that other people told, none of which occurs in
the persona or belongs to anyone whose chat is filler of the same session. Sentences differ in length and in
how common they are, so a sentence counts by how much likelier it is than in a fresh chat after the same
question; without memory of what was told, all eight are then alike. Many rows share a persona, so filler
comes from people who share no sentence with it.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hope_model.errors import ConfigError, DataError
from hope_model.evaluate.facts import WRONG, Exchange, Person, Question
from hope_model.train.shards import RawRow, read_rows

ASK = "Repeat something that I told you about myself, in my own words."
FILLER_CHATS = 16
"""Chats that one session may be filled with; more tokens than these begin with the first again."""
_FIELDS = ("p1", "p2", "chat")
_SAID = re.compile(r"User ([12]):\s*(.*)")


@dataclass(frozen=True)
class PersonaRow:
    """Sentences of the two, and their chat as (first, second) by turns."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    chat: tuple[Exchange, ...]

    @property
    def sentences(self) -> frozenset[str]:
        return frozenset((*self.first, *self.second))


def read_personas(path: Path) -> list[PersonaRow]:
    """Every row of a .jsonl or .jsonl.zst file.

    Raises:
        DataError: the file or a row cannot be read; the message names the row and what was expected.
    """
    if path.name.endswith(".txt"):
        raise DataError(f"{path.name}: expected a name that ends in .jsonl or .jsonl.zst")
    rows = [_parse(row) for row in read_rows(path)]
    if not rows:
        raise DataError(f"{path.name}: expected rows with {', '.join(_FIELDS)}, found none")
    return rows


def chats_of(rows: Sequence[PersonaRow], seed: int) -> list[Exchange]:
    """The exchanges of all chats, chat by chat in an order of the seed's."""
    order = random.Random(seed).sample(rows, len(rows))
    return [exchange for row in order for exchange in row.chat]


def choose_people(
    rows: Sequence[PersonaRow], count: int, facts: int, seed: int, filler: Sequence[Exchange] | None = None
) -> list[Person]:
    """``count`` first users of the file, each with up to ``facts`` sentences.

    Args:
        filler: other exchanges than the file's own chats.

    Raises:
        ConfigError: fewer than one person or fact.
        DataError: the file has too few people, or too few sentences of others.
    """
    if count < 1 or facts < 1:
        raise ConfigError(f"people, facts per person: expected at least 1, found {count}, {facts}")
    distinct = list({row.first: row for row in random.Random(seed).sample(rows, len(rows))}.values())
    if count > len(distinct):
        raise DataError(f"personas: expected at least {count} different people, found {len(distinct)}")
    return [
        _person(row, rows, facts, random.Random(f"{seed}/{number}"), filler)
        for number, row in enumerate(distinct[:count])
    ]


def _person(
    row: PersonaRow,
    rows: Sequence[PersonaRow],
    facts: int,
    rng: random.Random,
    filler: Sequence[Exchange] | None,
) -> Person:
    own = frozenset(row.first)
    others = [other for other in rows if own.isdisjoint(other.sentences)]
    rng.shuffle(others)
    talkers = others[:FILLER_CHATS] if filler is None else []
    heard = frozenset(sentence for talker in talkers for sentence in talker.sentences)
    strangers = [other.first for other in others if heard.isdisjoint(other.first)]
    wrong = sorted({sentence for first in strangers for sentence in first})
    if len(wrong) < WRONG:
        raise DataError(f"personas: expected at least {WRONG} sentences of other people, found {len(wrong)}")
    told = row.first[:facts]
    questions = tuple(
        Question("persona", ASK, (sentence, *rng.sample(wrong, WRONG)), _words(sentence), above_fresh=True)
        for sentence in told
    )
    talk = filler if filler is not None else [exchange for talker in talkers for exchange in talker.chat]
    return Person(" ".join(told), questions, talk)


def _words(sentence: str) -> tuple[str, ...]:
    """The words of more than four letters, which carry most of the content; all where there is none."""
    words = re.findall(r"\w+", sentence)
    return tuple(word for word in words if len(word) > 4) or tuple(words)


def _parse(row: RawRow) -> PersonaRow:
    try:
        data = json.loads(row.raw)
    except (ValueError, RecursionError) as error:
        raise row.error(f"expected JSON, found {error}") from error
    if not isinstance(data, dict) or not all(isinstance(data.get(name), str) for name in _FIELDS):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise row.error(f"expected an object with the texts {', '.join(_FIELDS)}, found {found}")
    first, second = (tuple(filter(None, map(str.strip, data[name].splitlines()))) for name in ("p1", "p2"))
    if not first or not second:
        raise row.error("expected at least one sentence in p1 and in p2, found none")
    chat = _exchanges(data["chat"])
    if not chat:
        raise row.error('expected a chat with lines "User 1: ..." and "User 2: ...", found none')
    return PersonaRow(first, second, chat)


def _exchanges(chat: str) -> tuple[Exchange, ...]:
    """Messages by turns, the first user's first; lines without a speaker go on with the message before."""
    said: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, chat.splitlines())):
        match = _SAID.fullmatch(line)
        speaker, text = match.groups() if match else (said[-1][0] if said else "", line)
        if said and said[-1][0] == speaker:
            said[-1] = (speaker, f"{said[-1][1]} {text}".strip())
        else:
            said.append((speaker, text))
    while said and said[0][0] != "1":
        said.pop(0)
    texts = [text for _, text in said]
    return tuple(zip(texts[::2], texts[1::2], strict=False))
