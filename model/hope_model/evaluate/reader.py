"""Who reads a conversation: sessions as they are served, or a model that never forgets a token of it.

A reader is asked in branches, which the conversation does not notice.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Protocol

import torch
from torch import Tensor

from hope_model.attention.cache import WindowCache
from hope_model.attention.config import GRID
from hope_model.attention.memory import Deltas
from hope_model.attention.model import HopeAttention
from hope_model.attention.rotary import Rotary
from hope_model.attention.rows import SessionRows
from hope_model.evaluate.conversation import Part, flat

MAX_BRANCH_BYTES = 1 << 29
"""Caches of branches that exist at one time; there is always one."""


class Reader(Protocol):
    """One conversation."""

    def read(self, parts: Sequence[Part]) -> None:
        """Go on with the conversation."""
        ...

    def judge(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """Log-likelihood in nats of each answer after ``prompt``; none of them may be empty."""
        ...

    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stop: Collection[int]) -> list[list[int]]:
        """The likeliest next token again and again, up to ``limit`` or one of ``stop``, which is left out."""
        ...


@dataclass
class Branch:
    """``rows`` copies of one conversation, each free to go on. deltas: ``[1, ...]``, shared by all."""

    model: HopeAttention
    cache: WindowCache
    deltas: Deltas | None

    def read(self, rows: Sequence[int], tokens: Tensor) -> Tensor:
        """``tokens [B, T]`` into ``rows``, of any length: the last block's output ``[B, T, D]``."""
        deltas = self.deltas
        if deltas is not None:
            deltas = {name: tensor.expand(len(rows), -1, -1) for name, tensor in deltas.items()}
        parts = tokens.to(self.model.backbone.device).split(GRID, dim=1)
        return torch.cat([self.model.read(self.cache, rows, part, deltas) for part in parts], dim=1)

    def copies(self, count: int) -> "Branch":
        """``count`` rows that stand where row 0 stands."""
        cache = self.model.new_cache(count)
        for row in range(count):
            cache.copy(row, self.cache, 0)
        return Branch(self.model, cache, self.deltas)


class BranchingReader(ABC):
    """What readers with a :class:`WindowCache` have in common."""

    model: HopeAttention

    @abstractmethod
    def branch(self, rows: int) -> Branch:
        """Copies of the conversation as it stands."""

    @torch.inference_mode()
    def judge(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """See :class:`Reader`."""
        asked = self.branch(1)
        last = asked.read([0], torch.tensor([list(prompt)]))[:, -1:]
        at_once, found = _rows_at_once(asked), list[float]()
        for start in range(0, len(answers), at_once):
            found += self._judge_some(asked, last, answers[start : start + at_once])
        return found

    def _judge_some(self, asked: Branch, last: Tensor, answers: Sequence[Sequence[int]]) -> list[float]:
        count, longest = len(answers), max(map(len, answers))
        # Padding comes after an answer, where nothing that counts sees it.
        ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers])
        outputs = last.expand(count, -1, -1)
        if longest > 1:
            outputs = torch.cat([outputs, asked.copies(count).read(range(count), ids[:, :-1])], dim=1)
        chances = self.model.backbone.logits(outputs).float().log_softmax(-1)
        nats = chances.gather(-1, ids.to(chances.device)[..., None])[..., 0].tolist()
        return [sum(row[: len(answer)]) for row, answer in zip(nats, answers, strict=True)]

    @torch.inference_mode()
    def answer(self, prompts: Sequence[Sequence[int]], limit: int, stop: Collection[int]) -> list[list[int]]:
        """See :class:`Reader`. Prompts are answered side by side, as many as fit."""
        at_once = _rows_at_once(self.branch(1))
        answers: list[list[int]] = []
        for start in range(0, len(prompts), at_once):
            answers += self._side_by_side(prompts[start : start + at_once], limit, stop)
        return answers

    def _side_by_side(
        self, prompts: Sequence[Sequence[int]], limit: int, stop: Collection[int]
    ) -> list[list[int]]:
        branch, rows = self.branch(len(prompts)), range(len(prompts))
        last = [branch.read([row], torch.tensor([list(prompts[row])]))[:, -1] for row in rows]
        outputs, open_rows = torch.cat(last), set(rows)
        answers: list[list[int]] = [[] for _ in rows]
        for step in range(limit):
            tokens = self.model.backbone.logits(outputs).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if token in stop:
                    open_rows.discard(row)
                elif row in open_rows:
                    answers[row].append(token)
            if not open_rows or step + 1 == limit:
                break
            outputs = branch.read(rows, tokens[:, None])[:, 0]
        return answers


class SessionReader(BranchingReader):
    """A session of the model, read as a server reads it; learn=False never writes its memory."""

    def __init__(self, model: HopeAttention, *, learn: bool) -> None:
        self.model, self.learns = model, learn
        self._rows = SessionRows(model, 1, learn=learn)

    def read(self, parts: Sequence[Part]) -> None:
        """See :class:`Reader`. Origins say what teaches; writes fall at their own positions."""
        tokens = flat(parts)
        origins = [origin for origin, ids in parts for _ in ids]
        at = 0
        while at < len(tokens):
            end = at + self._rows.room(0)
            self._rows.read(0, tokens[at:end], origins[at:end])
            at = end

    def branch(self, rows: int) -> Branch:
        """See :class:`BranchingReader`; a write that is not due is not in it."""
        cache, deltas = self._rows.branch(0, rows)
        return Branch(self.model, cache, deltas)

    def memory(self) -> Deltas | None:
        """The active deltas ``[1, ...]``, copied; None while nothing was learned."""
        return self.branch(1).deltas


class ContextReader(BranchingReader):
    """The unadapted model with every token of the conversation in sight.

    Args:
        tokens: the most that it will read, branches included.
    """

    def __init__(self, model: HopeAttention, tokens: int) -> None:
        self.model = widened(model, tokens)
        self._all = Branch(self.model, self.model.new_cache(1), None)

    @torch.inference_mode()
    def read(self, parts: Sequence[Part]) -> None:
        """See :class:`Reader`."""
        if tokens := flat(parts):
            self._all.read([0], torch.tensor([tokens]))

    def branch(self, rows: int) -> Branch:
        """See :class:`BranchingReader`."""
        return self._all.copies(rows)


def widened(model: HopeAttention, tokens: int) -> HopeAttention:
    """The same weights with a window that ``tokens`` tokens fit in, without a prefix of its own."""
    memory = model.config.memory
    window = max(-(-tokens // GRID) * GRID, memory.reach + memory.delay)
    period = lcm(*(level.period for level in memory.levels))
    memory = replace(memory, window=window, prefix=0, block=-(-window // period) * period)
    wide = copy.copy(model)
    wide.config = replace(model.config, memory=memory)
    wide.rotary = Rotary(model.config.backbone, window + GRID, model.backbone.device)
    return wide


def branch_bytes(branch: Branch) -> int:
    """Bytes of a branch's caches; a copy of a branch of one row has as many."""
    cache = branch.cache
    return sum(tensor.nbytes for tensor in (*cache.keys, *cache.values, cache.hidden, cache.outputs))


def _rows_at_once(branch: Branch) -> int:
    return max(1, MAX_BRANCH_BYTES // branch_bytes(branch))
