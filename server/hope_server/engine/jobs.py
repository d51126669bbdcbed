"""What a session at work has to do next, and where it stands. No torch."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hope_server.engine.request import FinishReason, SamplingParams
from hope_server.engine.scheduler import Phase
from hope_server.engine.units import Unit

if TYPE_CHECKING:
    from hope_server.engine.logprobs import PromptScores
    from hope_server.engine.runner import Counts
    from hope_server.engine.steering import Steering


@dataclass(slots=True)
class Row:
    """A session's place in the slab, and what its state has read and counted."""

    slot: int
    counts: "Counts"
    position: int = 0
    head: str = ""
    """Hash of the journal that the row stands at, as said when it was released."""


@dataclass(slots=True)
class Generation:
    """The sampling half of a turn; ``index`` counts the tokens sampled so far.

    steering: what changes the logits, None for nothing. scores: what to report of the prompt, if anything.
    learn: whether what is sampled may teach.
    """

    params: SamplingParams
    seed: int
    stop_check: Callable[[int], bool] | None = None
    steering: "Steering | None" = None
    scores: "PromptScores | None" = None
    learn: bool = True
    index: int = 0
    sampled_at: float | None = None

    def accept(self, token: int) -> FinishReason | None:
        """Count ``token``; says whether it is the turn's last."""
        self.index += 1
        if self.steering is not None:
            self.steering.accept(token)
        stopped = not self.params.ignore_eos and token in self.params.stop_token_ids
        if self.stop_check is not None and self.stop_check(token):
            stopped = True
        if self.steering is not None and self.steering.over:
            stopped = True
        if stopped:
            return "stop"
        return "length" if self.index >= self.params.max_tokens else None


@dataclass(slots=True)
class Job:
    """Units to read; then tokens to generate, each of which becomes a unit. Without generation it is a
    replay.

    durable: boundaries are worth a snapshot. sampling_over: nothing more is sampled once the units are read.
    """

    units: deque[Unit]
    durable: bool
    generation: Generation | None
    sampling_over: bool
    learned_tokens: int = 0
    counts: "Counts | None" = None
    """Of the row when the job began."""
    replay_scores: "PromptScores | None" = None

    @classmethod
    def replay(cls, units: Iterable[Unit], scores: "PromptScores | None" = None) -> "Job":
        """Restores a session from its journal; ``scores``: what to report of all its tokens, if anything."""
        job = cls(deque(units), durable=True, generation=None, sampling_over=True)
        job.replay_scores = scores
        return job

    @classmethod
    def turn(cls, units: Iterable[Unit], generation: Generation, *, durable: bool) -> "Job":
        """Reads a prompt and answers it."""
        return cls(deque(units), durable, generation, sampling_over=generation.params.max_tokens == 0)

    @property
    def decoding(self) -> bool:
        """Whether the prompt is read and the next unit is a sampled token."""
        return self.generation is not None and self.generation.index > 0

    @property
    def scores(self) -> "PromptScores | None":
        """What to report of the unit that is next: of a turn only the prompt's are scored."""
        if self.generation is None:
            return self.replay_scores
        return None if self.decoding else self.generation.scores

    @property
    def phase(self) -> Phase:
        """How the scheduler is to treat the next unit."""
        if self.units[0].kind == "step":
            return Phase.DECODE
        return Phase.BLOCK if self.decoding else Phase.PROMPT
