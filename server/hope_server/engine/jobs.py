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
    """A session's place in the slab, and what its state has read and counted. Not ``fit``: it is empty, and
    its session has to be loaded.
    """

    slot: int
    counts: "Counts"
    position: int = 0
    head: str = ""
    """Hash of the journal that the row stands at, as said when it was released."""
    fit: bool = True


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
    halts: it waits for help where the row cannot go on. freeze_at: position from which nothing is learned, if
    that is still ahead. repeated: tokens that are read once more before there is anything new.
    """

    units: deque[Unit]
    durable: bool
    generation: Generation | None
    sampling_over: bool
    learned_tokens: int = 0
    counts: "Counts | None" = None
    """Of the row when the job began."""
    halts: bool = True
    freeze_at: int | None = None
    repeated: int = 0
    halted_at: int | None = None
    replay_scores: "PromptScores | None" = None

    @classmethod
    def replay(
        cls,
        units: Iterable[Unit],
        scores: "PromptScores | None" = None,
        *,
        freeze_at: int | None = None,
        owned: bool = False,
    ) -> "Job":
        """Restores a session from its journal; ``scores``: what to report of all its tokens, if anything."""
        job = cls(deque(units), durable=owned, generation=None, sampling_over=True)
        job.replay_scores, job.freeze_at, job.halts = scores, freeze_at, owned
        return job

    @classmethod
    def turn(cls, units: Iterable[Unit], generation: Generation, *, durable: bool) -> "Job":
        """Reads a prompt and answers it."""
        return cls(deque(units), durable, generation, sampling_over=generation.params.max_tokens == 0)

    def halt(self, position: int) -> None:
        """Nothing is left to do until :meth:`resume`; the row had read ``position`` tokens."""
        self.units.clear()
        self.halted_at = position

    def resume(self, units: Iterable[Unit], *, position: int, freeze_at: int | None) -> None:
        """Go on with ``units``, which begin at ``position``."""
        assert self.halted_at is not None
        self.units.extend(units)
        self.repeated, self.halted_at, self.freeze_at = self.halted_at - position, None, freeze_at
        if freeze_at is not None and self.counts is not None:
            self.learned_tokens = min(self.learned_tokens, max(0, freeze_at - self.counts.position))

    def take(self) -> tuple[Unit, int]:
        """The unit that was read, and how many of its tokens, the last ones, were new."""
        unit = self.units.popleft()
        fresh = max(0, len(unit.tokens) - self.repeated)
        self.repeated = max(0, self.repeated - len(unit.tokens))
        return unit, fresh

    @property
    def halted(self) -> bool:
        return self.halted_at is not None

    @property
    def decoding(self) -> bool:
        """Whether the prompt is read and the next unit is a sampled token."""
        return self.generation is not None and self.generation.index > 0

    @property
    def scores(self) -> "PromptScores | None":
        """What to report of the unit that is next: of a turn only the prompt's are scored."""
        if self.generation is None:
            return self.replay_scores
        seen = self.decoding or self.repeated >= len(self.units[0].tokens)
        return None if seen else self.generation.scores

    @property
    def phase(self) -> Phase:
        """How the scheduler is to treat the next unit."""
        if self.units[0].kind == "step":
            return Phase.DECODE
        return Phase.BLOCK if self.decoding else Phase.PROMPT
