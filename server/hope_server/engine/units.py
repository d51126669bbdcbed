"""How a run of tokens becomes work: whole blocks, runs inside a block, single steps. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hope_server.sessions.session import Kind, Origin


class TokenRun(Protocol):
    """Tokens that were, or are to be, read in one piece: a journal record has this shape."""

    @property
    def kind(self) -> Kind: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def tokens(self) -> tuple[int, ...]: ...
    @property
    def learn(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Unit:
    """One launch of device work over new tokens.

    block: the tokens complete the open block. run: one forward inside a block. step: one token inside a
    block, which joins a decode batch.
    """

    kind: Literal["block", "run", "step"]
    tokens: tuple[int, ...]
    origins: tuple[Origin, ...] = ()
    """Of each token, where the model asks for it."""
    learn: tuple[bool, ...] = ()
    """Of each token, whether it may teach; empty where all may."""

    @property
    def learned(self) -> int:
        """How many of its tokens may teach."""
        return sum(self.learn) if self.learn else len(self.tokens)


def cut(runs: Sequence[TokenRun], *, tail: int, block: int) -> list[Unit]:
    """The units that take a session with ``tail`` tokens in its open block through ``runs``.

    The state at a boundary depends on the block's tokens alone, so runs inside a block that gets completed
    need no preview of their own. What remains after the last boundary keeps its cut, on which the preview's
    bits depend: live session and replay call this same function and come to the same bits.
    """
    units: list[Unit] = []
    total = tail + sum(len(run.tokens) for run in runs)
    whole = total // block * block - tail  # new tokens up to the last boundary; negative if there is none
    pending: list[tuple[int, bool]] = []
    for run in runs:
        inside = max(0, min(whole, len(run.tokens)))
        whole -= len(run.tokens)
        pending.extend((token, run.learn) for token in run.tokens[:inside])
        while pending and tail + len(pending) >= block:
            part = pending[: block - tail]
            units.append(Unit("block", tuple(t for t, _ in part), learn=learn_flags(on for _, on in part)))
            del pending[: block - tail]
            tail = 0
        rest = run.tokens[inside:]
        if run.kind == "step":
            units += [Unit("step", (token,), learn=learn_flags([run.learn])) for token in rest]
        elif rest:
            units.append(Unit("run", rest, learn=learn_flags([run.learn] * len(rest))))
    return units


def learn_flags(flags: Iterable[bool]) -> tuple[bool, ...]:
    """Whether each of some tokens may teach, as a unit says it."""
    found = tuple(flags)
    return () if all(found) else found


def cut_to_grid(runs: Sequence[TokenRun], *, position: int, grid: int) -> list[Unit]:
    """Runs of any origin up to the next multiple of ``grid``: for bits that do not depend on the cut."""
    tokens = [(token, run.origin, run.learn) for run in runs for token in run.tokens]
    units: list[Unit] = []
    start = 0
    while start < len(tokens):
        end = start + grid - (position + start) % grid
        part = tokens[start:end]
        origins, learn = tuple(origin for _, origin, _ in part), learn_flags(on for _, _, on in part)
        units.append(Unit("run", tuple(token for token, _, _ in part), origins, learn))
        start = end
    return units
