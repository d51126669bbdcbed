"""Long text, in which something else is hidden: sentences of a file, as many tokens as are wanted."""

import random
import re
from collections.abc import Sequence

from hope_model.errors import DataError

_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"”’)])\s+")
_LONGEST = 64
"""Tokens of a sentence; a longer one, as of a text without full stops, is several."""
_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def noise(tokens: int) -> str:
    """Five sentences again and again, as RULER's first needle task has them, at least ``tokens`` long."""
    return _NOISE * (tokens // len(_NOISE.split()) + 1)


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, each with the space that follows it; lines that are broken are joined."""
    joined = " ".join(text.split())
    return [f"{sentence} " for sentence in _END.split(joined) if sentence]


class Haystack:
    """The token ids of sentences.

    Args:
        name: of the file, for messages.
        ids: of each sentence.
    """

    def __init__(self, name: str, ids: Sequence[Sequence[int]]) -> None:
        self._name = name
        self._sentences = [
            tuple(sentence[at : at + _LONGEST])
            for sentence in ids
            for at in range(0, len(sentence), _LONGEST)
        ]
        self.tokens = sum(map(len, self._sentences))

    def hide(
        self, length: int, hidden: Sequence[tuple[float, Sequence[int]]], rng: random.Random
    ) -> tuple[int, ...]:
        """``length`` tokens: sentences from a random one on, and between them what is hidden.

        Args:
            hidden: where (0: before all sentences, 1: behind them), ascending, and what.

        Raises:
            DataError: the text is too short, or what is hidden too long.
        """
        room = length - sum(len(ids) for _, ids in hidden)
        if not 0 < room <= self.tokens:
            raise DataError(
                f"{self._name}: expected {max(room, 1)} tokens around what is hidden in {length}, "
                f"found {self.tokens if room > 0 else 'no room'}"
            )
        chosen = self._from(rng.randrange(len(self._sentences)), room)
        ends, at = [0], 0
        for sentence in chosen:
            at += len(sentence)
            ends.append(at)
        gaps = [min(range(len(ends)), key=lambda gap: abs(ends[gap] - place * room)) for place, _ in hidden]
        woven: list[int] = []
        for gap, sentence in enumerate([*chosen, ()]):
            for place, (_, ids) in zip(gaps, hidden, strict=True):
                if place == gap:
                    woven += ids
            woven += sentence
        return tuple(woven)

    def _from(self, first: int, room: int) -> list[tuple[int, ...]]:
        """Sentences of ``room`` tokens, the last one cut; behind the file's end comes its beginning."""
        chosen, left = [], room
        for number in range(first, first + len(self._sentences)):
            sentence = self._sentences[number % len(self._sentences)][:left]
            chosen.append(sentence)
            left -= len(sentence)
            if not left:
                break
        return chosen
