"""Parallel lanes of tokens whose state a trainer carries from window to window.

A lane reads runs one after another: a book alone, or short documents joined until they are long enough. Every
run starts at a window's first token with a reset state, and it ends at a window's end: what is missing there
is filled with the beginning of the set's next document, which is still read whole later. Order, resets and
mixture are pure functions of the seed, so a reader resumed from `state_dict` goes on with the very next
batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hope_model.errors import DataError
from hope_model.tokenizer import Tokenizer
from hope_model.train.documents import DocumentStream, Tokens
from hope_model.train.mixture import Source


@dataclass(frozen=True, slots=True)
class LaneConfig:
    """How lanes are cut.

    `run_tokens`: least length of a run of short documents. `reset_probability`: chance of a reset per lane
    and window inside a run. `shuffle_bytes`: shuffle buffer per set. `prefetch`: batches kept ready in the
    background.
    """

    run_tokens: int = 8192
    reset_probability: float = 1 / 24
    shuffle_bytes: int = 64 * 1024 * 1024
    prefetch: int = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """One window of every lane.

    tokens: [rows, window + 1] int64; the last column is the first token of the lane's next window (at a run's
    end, the token that would follow). resets: [rows] bool; True: the lane starts this window from the initial
    state. sets: name of the set that each lane reads.
    """

    tokens: torch.Tensor
    resets: torch.Tensor
    sets: tuple[str, ...]


@dataclass(slots=True)
class _Lane:
    """A lane's current run; `first` is the position of the run's first document in its set."""

    set: int
    first: int
    tokens: Tokens
    offset: int = 0


class LaneOrder:
    """The deterministic order of batches; runs in one thread at a time."""

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        rows: int,
        window: int,
        seed: int,
        config: LaneConfig,
    ) -> None:
        self.config = config
        self._rows, self._window, self._seed = rows, window, seed
        self._sources = tuple(sources)
        self._streams = [
            DocumentStream(source, tokenizer, seed=seed, shuffle_bytes=config.shuffle_bytes)
            for source in sources
        ]
        self._lanes: list[_Lane | None] = [None] * rows
        self._consumed = [0] * len(self._streams)
        self._exhausted = [False] * len(self._streams)
        self._batches = 0
        self._identity = _identity(sources, tokenizer, rows, window, seed, config)

    def next_batch(self) -> Batch | None:
        """The next batch, or None when no lane finds a run any more."""
        windows: list[Tokens] = []
        resets = self._random_resets()
        for row in range(self._rows):
            lane = self._lanes[row]
            if lane is None or len(lane.tokens) - lane.offset <= self._window:
                self._lanes[row] = None
                lane = self._lanes[row] = self._new_run()
                resets[row] = True
            if lane is None:
                return None
            windows.append(lane.tokens[lane.offset : lane.offset + self._window + 1])
            lane.offset += self._window
            self._consumed[lane.set] += self._window
        self._batches += 1
        names = tuple(self._sources[lane.set].name for lane in self._lanes if lane is not None)
        return Batch(torch.from_numpy(np.stack(windows).astype(np.int64)), torch.from_numpy(resets), names)

    def _random_resets(self) -> npt.NDArray[np.bool_]:
        draws = np.random.default_rng([self._seed, self._batches]).random(self._rows)
        return draws < self.config.reset_probability

    def _new_run(self) -> _Lane | None:
        while not all(self._exhausted):
            chosen = self._choose_set()
            lane = self._build_run(chosen)
            if lane is not None:
                return lane
            self._exhausted[chosen] = True
        return None

    def _choose_set(self) -> int:
        """The set that lacks most: in lanes that read it now, plus its shortfall in tokens so far."""
        total = sum(self._consumed)
        reading = [lane.set for lane in self._lanes if lane is not None]

        def lack(i: int) -> float:
            lanes = self._sources[i].weight * self._rows - reading.count(i)
            return lanes + (self._sources[i].weight * total - self._consumed[i]) / (
                8 * self.config.run_tokens
            )

        return max((i for i in range(len(self._streams)) if not self._exhausted[i]), key=lack)

    def _build_run(self, chosen: int) -> _Lane | None:
        """Join documents of a set to whole windows; None when it has too few documents left."""
        stream = self._streams[chosen]
        least = 1 if stream.source.format == "book" else self.config.run_tokens
        parts: list[Tokens] = []
        length = 0
        while length < least and (document := stream.peek(len(parts))) is not None:
            parts.append(document)
            length += len(document)
        first, count = stream.position, len(parts)
        needed = -(-length // self._window) * self._window + 1
        while 0 < length < needed and (document := stream.peek(len(parts))) is not None:
            parts.append(document)
            length += len(document)
        stream.take(count)
        whole = (min(length, needed) - 1) // self._window * self._window + 1
        return _Lane(chosen, first, np.concatenate(parts)[:whole]) if whole > 1 else None

    def state_dict(self) -> dict[str, Any]:
        """Plain values: where every set and every lane stands."""
        lanes = [
            None if lane is None else {"set": lane.set, "first": lane.first, "offset": lane.offset}
            for lane in self._lanes
        ]
        return {
            "identity": self._identity,
            "batches": self._batches,
            "positions": [stream.position for stream in self._streams],
            "consumed": list(self._consumed),
            "exhausted": list(self._exhausted),
            "lanes": lanes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rebuild every lane's run from the position of its first document."""
        if state.get("identity") != self._identity:
            raise DataError("lanes: the saved position is of other shards, settings or another tokenizer")
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"lanes: expected a saved position, found {error!r}") from error

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._batches = index(state["batches"])
        self._consumed = [index(count) for count in state["consumed"]]
        self._exhausted = list(state["exhausted"])
        saved = [(row, lane) for row, lane in enumerate(state["lanes"]) if lane is not None]
        for row, lane in sorted(saved, key=lambda item: item[1]["first"]):
            stream = self._streams[lane["set"]]
            stream.skip_to(lane["first"])
            run = self._build_run(lane["set"])
            if run is None:
                raise DataError(f"set {stream.source.name!r}: no run at document {lane['first']}")
            run.offset = lane["offset"]
            self._lanes[row] = run
        for stream, position in zip(self._streams, state["positions"], strict=True):
            stream.skip_to(position)


def _identity(
    sources: Sequence[Source], tokenizer: Tokenizer, rows: int, window: int, seed: int, config: LaneConfig
) -> str:
    """Hash of everything that the order of batches depends on, but for `prefetch`."""
    settings = asdict(config)
    del settings["prefetch"]
    sets = [
        [s.name, s.format, s.weight, s.max_epochs, [[p.name, p.stat().st_size] for p in s.shards]]
        for s in sources
    ]
    content = json.dumps([sets, tokenizer.sha256(), rows, window, seed, settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
