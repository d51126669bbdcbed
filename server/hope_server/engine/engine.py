"""The engine's step. It owns the rows, runs on one thread and knows neither store nor event loop."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from hope_model.state import State
from hope_model.streaks import Frozen
from hope_server.engine.events import (
    Boundary,
    Done,
    Event,
    Failed,
    Granted,
    Halted,
    HaltReason,
    Sampled,
    Scored,
)
from hope_server.engine.jobs import Generation, Job, Row
from hope_server.engine.logprobs import PromptScores, score
from hope_server.engine.observer import EngineObserver
from hope_server.engine.pace import LearningPace
from hope_server.engine.request import EngineConfig, EngineStats, LevelStatus
from hope_server.engine.rows import Rows
from hope_server.engine.runner import Output, Reading, Runner
from hope_server.engine.sampling import choose, uniform
from hope_server.engine.scheduler import BatchPlan, Grant, Phase, Scheduler
from hope_server.engine.slots import SlotTable
from hope_server.engine.tally import LevelTally, level_statuses, level_writes
from hope_server.engine.threads import use_threads
from hope_server.engine.units import TokenRun
from hope_server.errors import HopeError, InternalError, SessionCorrupted

log = logging.getLogger(__name__)

Sink = Callable[[list[tuple[str, Event]]], None]

REFUSALS: dict[Frozen, HaltReason] = {Frozen.NON_FINITE: "non_finite", Frozen.CANARY: "canary"}
"""A row that the guards froze, which its journal does not say yet."""


class Engine:
    """Sessions by key. One is opened (queues for a slot), granted, works through jobs, and is released.

    Every method runs on one thread. Events go to ``sink`` in order, in batches, at :meth:`flush`.

    Args:
        runner: launches device work; it owns the rows' tensors.
        config: sizes and bounds.
        sink: takes the events; must not block.
        observer: takes the figures.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        *,
        sink: Sink,
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._slots = SlotTable(config.slots)
        self._scheduler = Scheduler(
            self._slots,
            max_waiting=config.max_waiting,
            max_uncommitted=config.max_uncommitted,
            prompt_interval=config.prompt_interval,
            prompt_tokens=runner.prompt_tokens,
            clock=clock,
        )
        self._runner = runner
        self._rows = Rows(runner, self._slots, config.host_state_bytes)
        self._pace = LearningPace()
        self._tally = LevelTally(runner.spec)
        self._sink, self._observer, self._clock = sink, observer, clock
        self._jobs: dict[str, Job] = {}
        self._events: list[tuple[str, Event]] = []
        self.stats = EngineStats(slots=config.slots, max_waiting=config.max_waiting)

    def step(self) -> bool:
        """Plan, load, run, emit; the service commits what is emitted. False when there was nothing to do."""
        for grant in self._scheduler.admit():
            self._seat(grant)
        plan, started = self._scheduler.plan(), self._clock()
        prompts = {session: len(self._jobs[session].units[0].tokens) for session in plan.prompts}
        self._run(plan.sessions)
        worked = self._learn(plan, prompts)
        if plan:
            self._tally.report(self._observer)
            seconds, prompt_tokens = self._clock() - started, sum(prompts.values())
            self._observer.on_step(batch_size=len(plan.decode), prompt_tokens=prompt_tokens, seconds=seconds)
        self.flush()
        return bool(plan) or worked

    # What the service asks for

    def attach(self) -> None:
        """Make the calling thread the engine's thread."""
        if self.config.threads is not None:
            use_threads(self.config.threads)

    def open(self, session: str) -> None:
        """Queue for a slot; answered by Granted, or Failed with QueueFull."""
        try:
            self._scheduler.submit(session)
        except HopeError as error:
            self._emit(session, Failed(error))

    def load(
        self,
        session: str,
        row: State | None,
        position: int,
        runs: Sequence[TokenRun],
        scores: PromptScores | None = None,
        *,
        freeze_at: int | None = None,
        owned: bool = False,
    ) -> None:
        """Put ``row`` (a boundary after ``position`` tokens, None: the initial state) into the granted slot
        and replay ``runs``; answered by Scored events if ``scores`` asks for them (then no run may be of
        steps), and Done, or Failed.

        freeze_at: the boundary from which nothing is learned. owned: by a writer of the session, who is told
        of every Boundary, and helps if the row is Halted on the way.
        """
        self._rows.place(session, row, position)
        units = self._runner.cut(runs, position=position)
        self._begin(session, Job.replay(units, scores, freeze_at=freeze_at, owned=owned))

    def resume(
        self,
        session: str,
        row: State | None,
        position: int,
        runs: Sequence[TokenRun],
        *,
        freeze_at: int | None = None,
    ) -> None:
        """As :meth:`load`, for a session that was Halted: its job goes on where the runs end. Nothing happens
        if the job is over.
        """
        job = self._jobs.get(session)
        if job is not None and job.halted:
            self._rows.place(session, row, position)
            job.resume(self._runner.cut(runs, position=position), position=position, freeze_at=freeze_at)
            self._go_on(session)

    def start(self, session: str, runs: Sequence[TokenRun], generation: Generation, *, durable: bool) -> None:
        """Read ``runs`` and generate; answered by Sampled, Boundary and Halted events and Done, or Failed."""
        units = self._runner.cut(runs, position=self._rows[session].position)
        self._begin(session, Job.turn(units, generation, durable=durable))

    def committed(self, session: str, tokens: int) -> None:
        """A commit of sampled tokens landed."""
        self._scheduler.committed(session, tokens)

    def cancel(self, session: str) -> None:
        """End the job as soon as a token boundary allows; answered by Done. Nothing happens without a job.

        A sampled token is on its way to the journal, so the state still reads it. Of a prompt, all but a last
        unit is left unread; the row is then behind the journal and :meth:`release` drops it.
        """
        job = self._jobs.get(session)
        if job is None:
            if self._scheduler.phase(session) is Phase.WAITING:
                self._scheduler.finish(session, keep=False)
                self._emit(session, Done(0))
            return
        job.sampling_over = True
        if not job.halted and (job.decoding or len(job.units) == 1):
            self._queue(session)
        else:
            self._finish_job(session)

    def release(self, session: str, committed: int | None, head: str = "") -> None:
        """Give the slot back. The row stays for the next turn only if it stands exactly at the ``committed``
        position (None: unknown, or not to be kept), so a resident row never differs from its journal, whose
        hash is ``head``.
        """
        if self._scheduler.phase(session) is not None:
            row = self._rows.get(session)
            idle = row is not None and row.fit and session not in self._jobs and row.position == committed
            if row is not None:
                row.head = head
            self._forget(session, keep=idle)

    def drop(self, session: str) -> None:
        """Forget a row that is kept while its session does nothing."""
        self._rows.drop(session)

    def position(self, session: str) -> int | None:
        """Tokens read by the session's resident row, None without one or while it is being restored."""
        row, job = self._rows.get(session), self._jobs.get(session)
        restoring = job is not None and job.generation is None
        return None if row is None or not row.fit or restoring else row.position

    def standing(self, session: str) -> tuple[int, str] | None:
        """Position and journal hash of a row that is kept while its session does nothing."""
        row = self._rows.get(session)
        idle = row is not None and self._scheduler.phase(session) in (None, Phase.WAITING)
        return (row.position, row.head) if row is not None and idle else None

    def idle_sessions(self) -> list[str]:
        """Sessions whose row is kept while they do nothing."""
        return [session for session in self._rows if self._scheduler.phase(session) in (None, Phase.WAITING)]

    def levels(self, session: str) -> list[LevelStatus] | None:
        """The counters of a resident row, as the state itself keeps them; None when :meth:`position` is."""
        if self.position(session) is None:
            return None
        slot = self._rows[session].slot
        return level_statuses(self._runner.spec, self._runner.counts(slot), self._runner.drift(slot))

    def live_row(self, session: str) -> State:
        """A host copy of a resident session's live row, ``[1, ...]``."""
        return self._runner.live(self._rows[session].slot)

    def fail_all(self, error: HopeError) -> None:
        """Every session at work loses its slot."""
        for session in list(self._rows):
            if self._scheduler.phase(session) is not None:
                self._fail(session, error)

    def flush(self) -> None:
        """Hand the collected events to the sink."""
        host = self._rows.host
        self.stats = EngineStats(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            max_waiting=self.config.max_waiting,
            slots=self.config.slots,
            slots_used=self._slots.pinned + self._slots.idle,
            resident_active=self._slots.pinned,
            resident_idle=self._slots.idle,
            frozen=self._rows.frozen,
            host_rows=host.rows,
            host_bytes=host.bytes,
            host_hits=host.hits,
            host_misses=host.misses,
            host_evictions=host.evictions,
        )
        if self._events:
            events, self._events = self._events, []
            self._sink(events)

    def check_integrity(self) -> None:
        """Queues, slots, rows and jobs agree."""
        self._scheduler.check_integrity()
        self._rows.check_integrity()
        for session in self._jobs:
            assert self._scheduler.phase(session) not in (None, Phase.WAITING), (
                f"{session} works without a slot"
            )

    # Inside a step

    def _seat(self, grant: Grant) -> None:
        if grant.seat.evicted is not None:
            self._observer.on_eviction()
        row = self._rows.seat(grant.session, grant.seat)
        self._observer.on_queue(grant.waited_s)
        self._emit(grant.session, Granted(None) if row is None else Granted(row.position, row.head))

    def _run(self, sessions: Sequence[str]) -> None:
        """Each reads its first unit and goes on from there."""
        try:
            outputs = self._runner.launch(list(map(self._reading, sessions))) if sessions else []
        except Exception as error:
            self._break(sessions, error)
        else:
            for session, output in zip(sessions, outputs, strict=True):
                if isinstance(output, Exception):
                    self._break((session,), output)
                else:
                    self._advance(session, output)

    def _reading(self, session: str) -> Reading:
        job = self._jobs[session]
        return Reading(self._rows[session].slot, job.units[0], every=job.scores is not None)

    def _learn(self, plan: BatchPlan, prompts: Mapping[str, int]) -> bool:
        """Slices of begun writes: as many as their deadlines ask for, one without other work."""
        backlogs = {
            session: backlog
            for session in self._rows
            if (backlog := self._runner.backlog(self._rows[session].slot)) is not None
        }
        advanced = dict.fromkeys(plan.sessions, 1)
        for session, tokens in prompts.items():
            job = self._jobs.get(session)
            # One that has been read goes on in steps, and pays at their rate.
            if job is not None and job.units and job.units[0].kind != "step":
                advanced[session] = tokens
        if plan:
            groups = self._pace.choose(backlogs, advanced, beside_prompts=bool(prompts))
        else:
            groups = [[name] for name in list(backlogs)[:1]]
        for group in groups:
            self._work(group)
        return bool(groups)

    def _work(self, sessions: Sequence[str]) -> None:
        """A slice of each; of a pass that fails, each alone, so that only the one whose fault it is fails."""
        try:
            self._runner.work([self._rows[session].slot for session in sessions])
        except Exception as error:
            if len(sessions) > 1:
                for session in sessions:
                    self._work([session])
            else:
                self._break(sessions, error)
                self.drop(sessions[0])

    def _advance(self, session: str, output: Output) -> None:
        """The session has read its first unit: check, count, and queue what follows."""
        row, job = self._rows[session], self._jobs[session]
        if not output.finite:
            self._observer.on_corrupted()
            return self._spoiled(session)
        scores = job.scores
        unit, fresh = job.take()
        row.position += len(unit.tokens)
        new = fresh == len(unit.tokens)
        if new and row.counts.frozen is Frozen.NO:
            job.learned_tokens += self._runner.teaching_tokens(unit)
        self._count(session, row, job, output, new=new)
        if output.every is not None and scores is not None:
            self._emit(session, Scored(scores.read(unit.tokens[-fresh:], output.every[-fresh:])))
        if self._must_halt(session):
            return None
        if job.units:
            return self._queue(session)
        if job.sampling_over or job.generation is None:
            return self._finish_job(session)
        try:
            return self._sample(session, row, job.generation, output)
        except Exception as error:  # the caller's stop_check, or a bug: no reason to stop the other sessions
            return self._break((session,), error)

    def _sample(self, session: str, row: Row, generation: Generation, output: Output) -> None:
        job = self._jobs[session]
        steering, params = generation.steering, generation.params
        logits = output.logits if steering is None else steering.apply(output.logits)
        best = output.best if steering is None else None
        token = choose(logits, params, uniform(generation.seed, row.position), best)
        finish_reason = generation.accept(token)
        logprob = None
        if params.logprobs is not None:
            (logprob,) = score(output.logits[None], [token], params.logprobs)
        job.sampling_over = finish_reason is not None
        job.units.append(self._runner.step_unit(token, position=row.position, learn=generation.learn))
        pressing = 2 * self._scheduler.sampled(session) >= self.config.max_uncommitted
        self._emit(session, Sampled(token, generation.index - 1, finish_reason, logprob, pressing))
        self._queue(session)
        now = self._clock()
        if generation.sampled_at is not None:
            self._observer.on_inter_token(now - generation.sampled_at)
        generation.sampled_at = now

    def _count(self, session: str, row: Row, job: Job, output: Output, *, new: bool) -> None:
        before, row.counts = row.counts, output.counts
        if output.boundary is not None and job.durable:
            self._emit(session, Boundary(output.boundary, self._runner.boundary(row.slot)))
        if job.generation is None or not new:
            return
        self._tally.add(before, output.counts)
        if output.divergence is not None:
            self._observer.on_canary(output.divergence)
        if output.update_norm is None or output.counts.frozen is not Frozen.NO:
            return
        for level, norm in output.update_norm.items():
            self._observer.on_update_norm(level, norm)
        for level, ratio in self._runner.drift(row.slot).items():
            self._observer.on_drift(level, ratio)

    def _begin(self, session: str, job: Job) -> None:
        self._jobs[session] = job
        job.counts = self._rows[session].counts
        self._go_on(session)

    def _go_on(self, session: str) -> None:
        if self._must_halt(session):
            return
        if self._jobs[session].units:
            self._queue(session)
        else:
            self._finish_job(session)

    def _must_halt(self, session: str) -> bool:
        """Freeze the row where its job says so; halt the job where the guards did."""
        row, job = self._rows[session], self._jobs[session]
        if job.freeze_at == row.position:
            self._runner.freeze(row.slot)
            row.counts, job.freeze_at = self._runner.counts(row.slot), None
        reason = REFUSALS.get(row.counts.frozen) if job.halts else None
        if reason is not None:
            self._halt(session, reason)
        return reason is not None

    def _halt(self, session: str, reason: HaltReason) -> None:
        """The row is taken out of every batch and emptied; the session keeps its slot."""
        row = self._rows[session]
        self._jobs[session].halt(row.position)
        self._rows.empty(session)
        self._emit(session, Halted(reason, row.counts.good))

    def _spoiled(self, session: str) -> None:
        row, job = self._rows[session], self._jobs[session]
        if job.halts:
            self._halt(session, "output")
        else:
            found = f"non-finite values after token {row.position + len(job.units[0].tokens)}; state dropped"
            self._fail(session, SessionCorrupted(found))

    def _queue(self, session: str) -> None:
        job = self._jobs[session]
        last, tokens = job.sampling_over or len(job.units) > 1, len(job.units[0].tokens)
        self._scheduler.ready(session, job.phase, last=last, tokens=tokens)

    def _finish_job(self, session: str) -> None:
        job, row = self._jobs.pop(session), self._rows[session]
        self._scheduler.ready(session, Phase.HELD)
        if job.generation is None or job.counts is None:
            self._emit(session, Done(row.position))
            return
        writes = level_writes(self._runner.spec, job.counts, row.counts)
        drift = self._runner.drift(row.slot)
        self._emit(session, Done(row.position, job.learned_tokens, writes, drift))

    def _break(self, sessions: Sequence[str], error: Exception) -> None:
        log.error("engine step failed for %d sessions", len(sessions), exc_info=error)
        for session in sessions:
            self._fail(
                session,
                InternalError("the engine failed in this step; the session continues from its journal"),
            )

    def _fail(self, session: str, error: HopeError) -> None:
        if self._scheduler.phase(session) is not None:
            self._forget(session, keep=False)
            self._emit(session, Failed(error))

    def _forget(self, session: str, *, keep: bool) -> None:
        self._jobs.pop(session, None)
        if (
            not keep and self._scheduler.phase(session) is not Phase.WAITING
        ):  # one that waits may have an idle row
            self._rows.forget(session)
        self._scheduler.finish(session, keep=keep)

    def _emit(self, session: str, event: Event) -> None:
        self._events.append((session, event))
