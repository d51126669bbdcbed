"""Who runs in the next step. Pure policy: no torch, no redis, the clock passed in."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from hope_server.engine.slots import Seat, SlotTable
from hope_server.errors import QueueFull, SessionBusy


class Phase(Enum):
    """What a session in the scheduler waits for."""

    WAITING = "a slot"
    HELD = "something outside the engine"
    PROMPT = "a prompt unit: a block, or a run shorter than one"
    BLOCK = "one token that completes a block"
    DECODE = "one token inside a block"


@dataclass(slots=True)
class _Entry:
    arrived: float
    phase: Phase = Phase.WAITING
    uncommitted: int = 0
    last: bool = False
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Grant:
    """A session leaves the queue with a seat, ``waited_s`` after it joined."""

    session: str
    seat: Seat
    waited_s: float


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The work of one step: some prompt units, each of another session, at most one completed block, any
    number of decodes.

    The first two are bounded, which keeps the step short for the sessions that decode.
    """

    prompts: tuple[str, ...] = ()
    block: str | None = None
    decode: tuple[str, ...] = ()

    @property
    def sessions(self) -> tuple[str, ...]:
        """All that have work in the step, each once."""
        return (*self.prompts, *(() if self.block is None else (self.block,)), *self.decode)

    def __bool__(self) -> bool:
        return bool(self.sessions)


class Scheduler:
    """Slots first come, first served; prompt units and completed blocks by turns; all decode at once.

    prompt_tokens: of a step's prompt units, all together; the first one whose turn it is may have more.
    """

    def __init__(
        self,
        slots: SlotTable,
        *,
        max_waiting: int,
        max_uncommitted: int,
        prompt_interval: int,
        prompt_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._max_uncommitted = max_uncommitted
        self._prompt_interval = prompt_interval
        self._prompt_tokens = prompt_tokens
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._queues: dict[Phase, OrderedDict[str, None]] = {phase: OrderedDict() for phase in Phase}
        self._steps_since_prompt = 0

    def submit(self, session: str) -> None:
        """Join the queue for a slot.

        Raises:
            SessionBusy: the session is in the scheduler already.
            QueueFull: no slot can be had at once and ``max_waiting`` sessions wait.
        """
        if session in self._entries:
            raise SessionBusy("the session is in the middle of another turn")
        waiting = self._queues[Phase.WAITING]
        if len(waiting) >= self._max_waiting + self._slots.slots - self._slots.pinned:
            raise QueueFull(
                f"{len(waiting)} turns wait for one of {self._slots.slots} slots, which is the most allowed"
            )
        self._entries[session] = _Entry(self._clock())
        waiting[session] = None

    def admit(self) -> list[Grant]:
        """Seat as many waiting sessions as there are slots, in order of arrival; they are HELD then."""
        grants: list[Grant] = []
        for session in list(self._queues[Phase.WAITING]):
            seat = self._slots.pin(session)
            if seat is None:
                break
            self._move(session, Phase.HELD)
            grants.append(Grant(session, seat, self._clock() - self._entries[session].arrived))
        return grants

    def ready(self, session: str, phase: Phase, *, last: bool = False, tokens: int = 1) -> None:
        """Queue the next work of a seated session, which reads ``tokens``; with ``last`` it samples nothing,
        so no commit matters.
        """
        entry = self._entries[session]
        assert Phase.WAITING not in (entry.phase, phase), f"{session} has no slot"
        entry.last, entry.tokens = last, tokens
        self._move(session, phase)

    def sampled(self, session: str) -> int:
        """One more token waits for its commit; how many do."""
        entry = self._entries[session]
        entry.uncommitted += 1
        return entry.uncommitted

    def committed(self, session: str, tokens: int) -> None:
        """A commit of ``tokens`` landed; ignored for a session that is gone."""
        if (entry := self._entries.get(session)) is not None:
            entry.uncommitted -= tokens

    def plan(self) -> BatchPlan:
        """Pick the work of the next step; the caller runs it and says what follows with :meth:`ready`."""
        decode = tuple(session for session in self._queues[Phase.DECODE] if self._may_decode(session))
        block = next((session for session in self._queues[Phase.BLOCK] if self._may_decode(session)), None)
        prompts = self._next_prompts()
        self._steps_since_prompt += 1
        if (decode or block) and self._steps_since_prompt < self._prompt_interval:
            prompts = ()
        if prompts:
            self._steps_since_prompt = 0
        plan = BatchPlan(prompts, block, decode)
        for session in plan.sessions:
            self._move(session, Phase.HELD)
        return plan

    def finish(self, session: str, *, keep: bool) -> None:
        """The session leaves; its row stays idle with ``keep``. It may be in any phase."""
        entry = self._entries.pop(session)
        del self._queues[entry.phase][session]
        if entry.phase is not Phase.WAITING:
            self._slots.unpin(session, keep=keep)

    def phase(self, session: str) -> Phase | None:
        entry = self._entries.get(session)
        return entry.phase if entry is not None else None

    @property
    def waiting(self) -> int:
        return len(self._queues[Phase.WAITING])

    @property
    def running(self) -> int:
        return len(self._entries) - self.waiting

    def check_integrity(self) -> None:
        """Every session is in the queue of its phase, only seated ones run, and bounds hold."""
        self._slots.check_integrity()
        for phase, queue in self._queues.items():
            for session in queue:
                assert self._entries[session].phase is phase, (
                    f"{session} is queued for {phase.value} by mistake"
                )
        assert sum(map(len, self._queues.values())) == len(self._entries), (
            "a session is queued twice or not at all"
        )
        assert self.running == self._slots.pinned, (
            "a running session without a slot, or a slot without a session"
        )
        for session, entry in self._entries.items():
            assert 0 <= entry.uncommitted <= self._max_uncommitted, (
                f"{session}: {entry.uncommitted} uncommitted"
            )

    def _next_prompts(self) -> tuple[str, ...]:
        """From the one whose turn it is, up to the first that does not fit in: nobody is passed over."""
        chosen: list[str] = []
        left = self._prompt_tokens
        for session in self._queues[Phase.PROMPT]:
            left -= self._entries[session].tokens
            if chosen and left < 0:
                break
            chosen.append(session)
        return tuple(chosen)

    def _may_decode(self, session: str) -> bool:
        entry = self._entries[session]
        return entry.last or entry.uncommitted < self._max_uncommitted

    def _move(self, session: str, phase: Phase) -> None:
        entry = self._entries[session]
        del self._queues[entry.phase][session]
        self._queues[phase][session] = None
        entry.phase = phase
