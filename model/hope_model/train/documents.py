"""The documents of one source as token arrays, in a shuffled order that is a pure function of the seed."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hope_model.errors import DataError
from hope_model.tokenizer import Tokenizer, split_text
from hope_model.train.dialogue import parse_dialogue
from hope_model.train.mixture import Source
from hope_model.train.shards import RawRow, read_rows

Tokens = npt.NDArray[np.int32]
_ENCODE_CHARACTERS = 1 << 17


class DocumentStream:
    """Endless passes over a source's rows; every document ends with <|endoftext|>.

    Rows of all shards are interleaved and pass through a shuffle buffer of `shuffle_bytes`, so memory is
    bounded and a small source is shuffled whole. `position` counts the documents handed out by `take`.
    """

    def __init__(self, source: Source, tokenizer: Tokenizer, *, seed: int, shuffle_bytes: int) -> None:
        self.source = source
        self.position = 0
        self._tokenizer = tokenizer
        self._seed = seed
        self._shuffle_bytes = shuffle_bytes
        self._rows = self._endless_rows()
        self._ready: deque[Tokens] = deque()

    def peek(self, ahead: int) -> Tokens | None:
        """The document `ahead` places after the next one, [n] int32; None after the last allowed pass."""
        while len(self._ready) <= ahead:
            rows = self._next_rows()
            if not rows:
                return None
            self._ready.extend(self._encode(rows))
        return self._ready[ahead]

    def take(self, count: int) -> None:
        """Hand out `count` documents that were peeked at."""
        for _ in range(count):
            self._ready.popleft()
        self.position += count

    def skip_to(self, position: int) -> None:
        """Move forward to `position` without encoding what lies between."""
        while self.position < position:
            if self._ready:
                self._ready.popleft()
            elif next(self._rows, None) is None:
                raise DataError(
                    f"set {self.source.name!r}: expected document {position}, found {self.position}"
                )
            self.position += 1

    def _next_rows(self) -> list[RawRow]:
        """Rows enough to be worth one call of the tokenizer; the order of documents does not depend on it."""
        rows: list[RawRow] = []
        size = 0
        while size < _ENCODE_CHARACTERS and (row := next(self._rows, None)) is not None:
            rows.append(row)
            size += len(row.raw)
        return rows

    def _encode(self, rows: list[RawRow]) -> list[Tokens]:
        if self.source.format == "dialogue":
            return self._encode_dialogues(rows)
        pieces = [list(split_text(row.text)) for row in rows]
        ids = iter(self._tokenizer.encode_batch([piece for document in pieces for piece in document]))
        return [self._joined([next(ids) for _ in document]) for document in pieces]

    def _encode_dialogues(self, rows: list[RawRow]) -> list[Tokens]:
        documents = []
        for row in rows:
            try:
                documents.append(parse_dialogue(row.text))
            except DataError as error:
                raise row.error(str(error)) from error
        ids = iter(self._tokenizer.encode_batch([text for messages in documents for _, text in messages]))
        role_id, end_id = self._tokenizer.role_id, self._tokenizer.end_id
        return [self._joined([[role_id(role), *next(ids), end_id] for role, _ in doc]) for doc in documents]

    def _joined(self, parts: list[list[int]]) -> Tokens:
        return np.concatenate([np.asarray(ids, np.int32) for ids in [*parts, [self._tokenizer.eos_id]]])

    def _endless_rows(self) -> Iterator[RawRow]:
        epoch = 0
        while self.source.max_epochs is None or epoch < self.source.max_epochs:
            found = False
            for row in self._shuffled(random.Random(f"{self._seed}/{self.source.name}/{epoch}")):
                found = True
                yield row
            if not found:
                raise DataError(f"set {self.source.name!r}: expected at least one row, found none")
            epoch += 1

    def _shuffled(self, rng: random.Random) -> Iterator[RawRow]:
        buffer: list[RawRow] = []
        size = 0
        for row in _interleaved([read_rows(shard) for shard in self.source.shards]):
            buffer.append(row)
            size += len(row.raw)
            while size > self._shuffle_bytes and len(buffer) > 1:
                chosen = _pop_random(buffer, rng)
                size -= len(chosen.raw)
                yield chosen
        while buffer:
            yield _pop_random(buffer, rng)


def _interleaved(streams: list[Iterator[RawRow]]) -> Iterator[RawRow]:
    """One row of each stream in turn, until all are used up."""
    waiting = deque(streams)
    while waiting:
        stream = waiting.popleft()
        row = next(stream, None)
        if row is not None:
            waiting.append(stream)
            yield row


def _pop_random(buffer: list[RawRow], rng: random.Random) -> RawRow:
    chosen = rng.randrange(len(buffer))
    buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
    return buffer.pop()
