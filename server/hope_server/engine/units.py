"""How a run of tokens becomes work: whole blocks, runs inside a block, single steps. No torch."""

from collections.abc import Sequence
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


def cut(runs: Sequence[TokenRun], *, tail: int, block: int) -> list[Unit]:
    """The units that take a session with ``tail`` tokens in its open block through ``runs``.

    The state at a boundary depends on the block's tokens alone, so runs inside a block that gets completed
    need no preview of their own. What remains after the last boundary keeps its cut, on which the preview's
    bits depend: live session and replay call this same function and come to the same bits.
    """
    units: list[Unit] = []
    total = tail + sum(len(run.tokens) for run in runs)
    whole = total // block * block - tail  # new tokens up to the last boundary; negative if there is none
    pending: list[int] = []
    for run in runs:
        inside = max(0, min(whole, len(run.tokens)))
        whole -= len(run.tokens)
        pending.extend(run.tokens[:inside])
        while pending and tail + len(pending) >= block:
            units.append(Unit("block", tuple(pending[: block - tail])))
            del pending[: block - tail]
            tail = 0
        rest = run.tokens[inside:]
        if run.kind == "step":
            units += [Unit("step", (token,)) for token in rest]
        elif rest:
            units.append(Unit("run", rest))
    return units


def cut_to_grid(runs: Sequence[TokenRun], *, position: int, grid: int) -> list[Unit]:
    """Runs of any origin up to the next multiple of ``grid``: for bits that do not depend on the cut."""
    tokens = [(token, run.origin) for run in runs for token in run.tokens]
    units: list[Unit] = []
    start = 0
    while start < len(tokens):
        end = start + grid - (position + start) % grid
        part = tokens[start:end]
        units.append(Unit("run", tuple(t for t, _ in part), tuple(origin for _, origin in part)))
        start = end
    return units
