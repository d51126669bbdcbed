"""What a load test will ask for, and when: all of it from one seed. No network, no torch."""

from __future__ import annotations

import random
from dataclasses import dataclass

# fmt: off
WORDS = (
    "a", "about", "after", "all", "and", "answer", "any", "as", "at", "because", "bird", "book", "boat",
    "but", "by", "city", "could", "day", "did", "door", "down", "first", "for", "from", "garden", "had",
    "has", "he", "her", "house", "how", "if", "in", "into", "it", "king", "letter", "like", "little",
    "long", "made", "many", "more", "morning", "much", "night", "no", "not", "now", "of", "old", "on",
    "one", "or", "other", "over", "river", "road", "room", "said", "sea", "she", "so", "some", "story",
    "table", "than", "that", "the", "their", "then", "there", "they", "this", "time", "to", "two", "under",
    "up", "was", "water", "we", "went", "were", "what", "when", "which", "who", "will", "winter", "with",
    "woman", "word", "would", "year", "you",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from ``low`` to ``high``, both included, all equally likely."""

    low: int
    high: int

    def draw(self, chance: random.Random) -> int:
        return chance.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """One load test.

    rate: requests a second, in a Poisson process, whatever the server manages; None for ``concurrency``
    clients of which each sends its next request when it has its answer. requests: that count in the figures;
    ``warm_up`` more come before them. turns: requests that share a session; 0 sends none, for any server.
    """

    requests: int
    warm_up: int
    rate: float | None
    concurrency: int
    turns: int
    prompt_words: Span
    answer_tokens: Span
    seed: int


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """at_s: seconds after the start at which it is due; None as soon as a client is free."""

    index: int
    at_s: float | None
    prompt: str
    answer_tokens: int
    seed: int


def plan(settings: LoadSettings) -> list[PlannedRequest]:
    """Every request in order; equal settings give equal plans."""
    chance = random.Random(settings.seed)
    planned, due = [], 0.0
    for index in range(settings.warm_up + settings.requests):
        if settings.rate is not None:
            due += chance.expovariate(settings.rate)
        words = chance.choices(WORDS, k=settings.prompt_words.draw(chance))
        planned.append(
            PlannedRequest(
                index,
                None if settings.rate is None else due,
                " ".join(words),
                settings.answer_tokens.draw(chance),
                chance.randrange(1 << 31),
            )
        )
    return planned
