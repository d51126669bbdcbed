"""Who says how likely a text is: a model in this process, or a server."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention.rows import SessionRows
from hope_model.decoding import DecodeRows, can_decode
from hope_model.evaluate.attention_stream import session_logits
from hope_model.evaluate.tasks.formats import Pair
from hope_model.hope import Hope
from hope_model.pretrained_tokenizer import PretrainedTokenizer
from hope_model.state import State
from hope_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Likelihood:
    """nats: log-likelihood of all judged tokens. greedy: none was likelier where each of them stood."""

    nats: float
    greedy: bool


@dataclass(frozen=True)
class Judged:
    """Token ids of which the last ``count`` are judged; the first is only read.

    count: 0 where a continuation adds no token, which nobody has to be asked about.
    """

    ids: tuple[int, ...]
    count: int


class Scorer(Protocol):
    """Each text is read by a fresh session that is thrown away."""

    def encode(self, text: str) -> list[int]: ...
    def prefix(self) -> int:
        """The token that stands before a text whose first token is judged: what begins a text, if the model
        has that, else what ends one.
        """
        ...

    def score(self, batch: Sequence[Judged]) -> list[Likelihood]: ...


def judged_pair(scorer: Scorer, pair: Pair) -> Judged:
    """The context's tokens, then what the tokens of both texts have beyond so many: these are judged.

    Spaces at the context's end belong to the continuation, whose first token they are part of. A continuation
    without context that itself begins with the token before a text has no other before it.
    """
    kept = pair.context.rstrip()
    continuation = pair.context[len(kept) :] + pair.continuation
    whole = scorer.encode(kept + continuation)
    if kept:
        before = scorer.encode(kept)
        return Judged((*before, *whole[len(before) :]), max(0, len(whole) - len(before)))
    if whole[:1] == [scorer.prefix()]:
        return Judged(tuple(whole), len(whole) - 1)
    return Judged((scorer.prefix(), *whole), len(whole))


def windows(ids: Sequence[int], prefix: int, window: int | None) -> list[Judged]:
    """``ids`` cut so that every token is judged once, each part after at most ``window`` tokens before its
    last.

    Without ``window`` it is one part. The last one, which is shorter, has the tokens before it as context.
    """
    whole = [prefix, *ids]
    if window is None or len(ids) <= window:
        return [Judged(tuple(whole), len(ids))]
    parts = []
    for start in range(0, len(ids), window):
        end = min(start + window, len(ids))
        parts.append(Judged(tuple(whole[max(0, end - window) : end + 1]), end - start))
    return parts


class HopeScorer:
    """A Hope model: texts of any length in one batch, filled up at the end, where nothing is judged.

    They are read block by block: a whole article at once would need memory with its square. Between blocks
    the state is that of a served session, whose kernel rounds otherwise than the model's forward pass.
    """

    def __init__(self, model: Hope, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def prefix(self) -> int:
        return self._tokenizer.eos_id

    @torch.no_grad()
    def score(self, batch: Sequence[Judged]) -> list[Likelihood]:
        longest = max(len(one.ids) for one in batch)
        ids = [[*one.ids, *[0] * (longest - len(one.ids))] for one in batch]
        tokens = torch.tensor(ids, device=self._model.embedding.weight.device)
        state, parts = self._model.initial_state(len(batch)), []
        for block in tokens[:, :-1].split(self._model.config.block, dim=1):
            part, after = self._model.hidden(block, state)
            parts.append(part)
            state = self._served_after(block, state) or after
        hidden = torch.cat(parts, dim=1)
        found = []
        for row, one in enumerate(batch):
            judged = slice(len(one.ids) - 1 - one.count, len(one.ids) - 1)
            logits = self._model.logits(hidden[row, judged]).float()
            targets = tokens[row, 1:][judged]
            nats = -F.cross_entropy(logits, targets, reduction="none").double().sum()
            found.append(Likelihood(float(nats), bool(_likeliest(logits, targets).all())))
        return found

    @cached_property
    def _served(self) -> DecodeRows | None:
        """A row that reads prompts as a server does; None where that is the model's forward pass."""
        rows = DecodeRows(self._model, 1) if can_decode(self._model) else None
        return rows if rows is not None and rows.can_read else None

    def _served_after(self, block: Tensor, state: State) -> State:
        """The state after a whole block ``[B, block]``; empty where it is the forward pass's, and after the
        last tokens of a text, which nothing follows.
        """
        if block.shape[1] < self._model.config.block or self._served is None:
            return {}
        after = []
        for row, tokens in enumerate(block.tolist()):
            self._served.load(0, {name: tensor[row : row + 1] for name, tensor in state.items()})
            self._served.read(0, tokens)
            after.append(self._served.state(0))
        return {name: torch.cat([own[name] for own in after]) for name in state}


class AttentionScorer:
    """A pre-trained model: each text is a session of its own, read and learned as it is served."""

    def __init__(self, rows: SessionRows, tokenizer: PretrainedTokenizer, prefix: int) -> None:
        self._rows, self._tokenizer, self._prefix = rows, tokenizer, prefix

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def prefix(self) -> int:
        return self._prefix

    @torch.no_grad()
    def score(self, batch: Sequence[Judged]) -> list[Likelihood]:
        return [self._one(one) for one in batch]

    def _one(self, one: Judged) -> Likelihood:
        losses, likeliest = [], []
        for logits, targets in session_logits(self._rows, one.ids, "text"):
            losses.append(F.cross_entropy(logits.float(), targets, reduction="none"))
            likeliest.append(_likeliest(logits, targets))
        judged = slice(-one.count, None)
        nats = -float(torch.cat(losses)[judged].double().sum())
        return Likelihood(nats, bool(torch.cat(likeliest)[judged].all()))


def _likeliest(logits: Tensor, targets: Tensor) -> Tensor:
    """Where no token is likelier than the target, which may share its place, ``[n]``."""
    return logits.gather(-1, targets[:, None])[:, 0] == logits.amax(-1)
