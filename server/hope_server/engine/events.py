"""What the engine tells the service, in order, per session at work. No torch at run time."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hope_server.engine.request import FinishReason, TokenLogprob
from hope_server.errors import HopeError

if TYPE_CHECKING:
    from hope_model.state import State


@dataclass(frozen=True, slots=True)
class Granted:
    """A slot is ours. ``position``: tokens that the row found there has read, None if it has to be loaded;
    ``head``: the hash of the journal that it stands at.
    """

    position: int | None
    head: str = ""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token was chosen; the state has yet to read it. It is to be committed, then handed out.

    pressing: so many wait for their commit that the turn will pause before long.
    """

    token: int
    index: int
    finish_reason: FinishReason | None
    logprob: TokenLogprob | None = None
    pressing: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Tokens of the prompt were read."""

    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Boundary:
    """The state after ``position`` tokens, a copy of one row on the host."""

    position: int
    row: "State"


HaltReason = Literal["non_finite", "canary", "output"]
"""Why the guards refused a level's writes until they refused the third in a row; "output": what the model
answered was not finite.
"""


@dataclass(frozen=True, slots=True)
class Halted:
    """The job waits, its row is empty, until ``Engine.resume``. ``good``: tokens read up to the last boundary
    at which no level had a write refused.
    """

    reason: HaltReason
    good: int


@dataclass(frozen=True, slots=True)
class Done:
    """The job is over: the state stands at ``position`` and nothing more is computed until the next job.

    learned_tokens, level_writes, drift: of a job that generates, as in ``TurnFigures``.
    """

    position: int
    learned_tokens: int = 0
    level_writes: dict[str, int] = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The job is over and the session has lost its slot."""

    error: HopeError


Event = Granted | Sampled | Scored | Boundary | Halted | Done | Failed


def is_urgent(event: Event) -> bool:
    """Whether somebody waits for what follows from it: not so of most tokens, and of states to be stored."""
    return event.pressing if isinstance(event, Sampled) else not isinstance(event, Boundary)
