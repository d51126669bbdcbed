"""One turn: the prompt is committed, read and answered; every token is committed before it is handed out."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from hope_server.engine.events import Boundary, Done, Failed, Halted, Sampled, Scored
from hope_server.engine.jobs import Generation
from hope_server.engine.lease import Cancelled, Desk, Lease
from hope_server.engine.logprobs import PromptScores
from hope_server.engine.observer import TurnOutcome
from hope_server.engine.request import GenerationRequest, TokenEvent, TurnFigures, request_name
from hope_server.engine.steering import steering_for
from hope_server.engine.turn_spans import TurnSpans
from hope_server.errors import AlreadyLearned, HopeError, InternalError
from hope_server.sessions.key import SessionKey
from hope_server.sessions.refusals import already_learned
from hope_server.sessions.session import (
    MAX_APPEND_RECORDS,
    MAX_APPEND_TOKENS,
    Fence,
    Head,
    JournalRecord,
    Sampler,
    SessionMeta,
    TurnKey,
)

log = logging.getLogger(__name__)


class Turn:
    """Runs in a task of its own, so that a caller who goes away at any moment leaves nothing half done.

    Args:
        desk: engine and store.
        name: the session's key as text, or a name of its own for an ephemeral session.
        request: validated.
    """

    def __init__(self, desk: Desk, name: str, request: GenerationRequest) -> None:
        self._desk = desk
        self._lease = Lease(desk, name)
        self._request = request
        self._started = desk.clock()
        self._out: asyncio.Queue[TokenEvent | None] = asyncio.Queue()
        self._last: TokenEvent | None = None
        self._error: HopeError | None = None
        self._outcome: TurnOutcome = "abort"
        self._generated = 0
        self._meta: SessionMeta | None = None
        self._fence: Fence | None = None
        self._head: Head | None = None  # where the journal is known to end; None when in doubt
        self._first_seq = 1
        self._read: list[JournalRecord] = []  # of an ephemeral session: what stands in for its journal
        self._freeze_at: int | None = None  # of an ephemeral session: where its learning ended
        self._seed = 0
        self._learning = False  # something was sent to the journal
        self._spans = TurnSpans(request.span)
        self.session = request.session
        self._request_name = request_name(
            request.idempotency_key or request.fingerprint or request.request_id
        )
        self.resident = asyncio.Event()
        """The state is in its slot, or the turn is over."""
        self.closed = asyncio.Event()
        """The slot is given back; nothing more happens."""

    async def run(self) -> None:
        """The whole turn. Errors go to the reader of :meth:`next`."""
        try:
            await self._lease_slot()
            records = await self._commit_prompt()
            seed = self._request.sampling.seed
            self._seed = secrets.randbits(64) if seed is None else seed
            self._spans.prefill(self._request.prompt_tokens)
            self._lease.start(records, self._generation(), durable=self._meta is not None)
            self.resident.set()
            await self._commit_answer()
            if not self._lease.cancelled:
                self._outcome = "length" if self._last is None else self._last.finish_reason or "length"
        except Cancelled:
            pass
        except HopeError as error:
            self._error = self._error or error
        except Exception as error:
            log.error("turn %s failed", self._request.request_id, exc_info=error)
            self._error = InternalError("the turn failed; the session continues from its journal")
        finally:
            self.resident.set()
            self._spans.end(self._generated, "" if self._error is None else self._error.code)
            await self._release()

    def close(self) -> None:
        """After :meth:`run`, when the session is free for its next turn: let the caller see the end."""
        if self._error is not None and self._learning and self._request.idempotency_key is None:
            self._error.forbid_retry()  # without a key nobody could tell that it is learned already
        if self._last is not None and self._error is None:
            self._out.put_nowait(self._last)
        self._out.put_nowait(None)
        self.closed.set()
        self._desk.observer.on_turn_end(
            "error" if self._error is not None else self._outcome,
            prompt_tokens=self._request.prompt_tokens,
            generated_tokens=self._generated,
            seconds=self._desk.clock() - self._started,
        )

    def cancel(self, error: HopeError | None = None) -> None:
        """Stop within one token; the reader gets ``error``, if any. Nothing happens after the end."""
        if not self.closed.is_set():
            self._error = self._error or error
            self._lease.cancel()

    async def next(self) -> TokenEvent | None:
        """The next committed token, None after the last; raises what ended the turn early."""
        event = await self._out.get()
        if event is None and self._error is not None:
            raise self._error
        return event

    async def _lease_slot(self) -> None:
        session = self.session
        if session is None:
            with self._spans.admission():
                await self._lease.seat()
            self._lease.check_cancelled()
            return
        if (key := self._request.idempotency_key) is not None:
            await self._refuse_learned(session, key)
        await self._desk.meta(session)  # what is refused anyway does not wait for a slot
        with self._spans.admission():
            await self._lease.seat()
        with self._spans.load():
            self._fence, self._meta = await self._desk.ownership.acquire(session)
            self._desk.check(self._meta)
            self._meta = await self._lease.bring(self._meta, self._fence)
        self._head, self._first_seq = self._meta.head, self._meta.seq + 1

    async def _release(self) -> None:
        """The slot first: whoever takes the session over finds nothing of it at work here."""
        head = self._head
        if self._meta is None or head is None:
            await self._lease.release(None)
        else:
            await self._lease.release(head.seq - self._meta.path.base_seq, head.sha256)
        if self._meta is not None:
            await self._desk.ownership.release(self._meta.key)

    async def _refuse_learned(self, session: SessionKey, key: str) -> None:
        learned = await self._desk.store.learned(session, key)
        if learned is not None:
            raise already_learned(*learned)

    async def _commit_prompt(self) -> list[JournalRecord]:
        """Journal the prompt, a record per run; it is learned from here on, whatever the answer."""
        records = self._prompt_records(self._seq + 1)
        if self._meta is not None:
            with self._spans.commit(self._request.prompt_tokens):
                start = 0
                while start < len(records):
                    size = _append_size(records[start:])
                    await self._append(records[start : start + size])
                    start += size
        else:
            self._read += records
        self._desk.observer.on_prompt(self._request.prompt_tokens)
        return records

    def _prompt_records(self, seq: int) -> list[JournalRecord]:
        """The last one carries the transcript: a prompt is in the chat once it is read whole."""
        records: list[JournalRecord] = []
        parts = (part for part in self._request.prompt if part.tokens)
        for origin, group in groupby(parts, key=lambda part: part.origin):
            tokens = tuple(token for part in group for token in part.tokens)
            for start in range(0, len(tokens), MAX_APPEND_TOKENS):
                run = tokens[start : start + MAX_APPEND_TOKENS]
                record = JournalRecord(
                    seq, "run", origin, run, request=self._request_name, learn=self._request.learn
                )
                records.append(record)
                seq = records[-1].last_seq + 1
        records[-1] = replace(records[-1], transcript=self._request.transcript)
        return records

    def _generation(self) -> Generation:
        request, top = self._request, self._request.sampling.prompt_logprobs
        prompt = (token for part in request.prompt for token in part.tokens)
        return Generation(
            request.sampling,
            self._seed,
            request.stop_check,
            steering=steering_for(request.sampling, prompt, request.constraint),
            scores=None if top is None else PromptScores(top),
            learn=request.learn,
        )

    async def _commit_answer(self) -> None:
        """Tokens that were sampled while a commit was in flight go together into the next one, and those that
        can wait gather until others commit as well.
        """
        while True:
            events = await self._lease.take()
            if self._meta is not None and self._generated:
                events += await self._lease.gather(events)
            sampled = [event for event in events if isinstance(event, Sampled)]
            if sampled:
                self._spans.decode()
                await self._commit_sampled(sampled)
            for event in events:
                if isinstance(event, Scored) and self._request.scored is not None:
                    self._request.scored(event.logprobs)
                elif isinstance(event, Boundary) and self._meta is not None:
                    assert self._fence is not None
                    self._lease.offer(event, self._meta_now(), self._fence)
                elif isinstance(event, Halted):
                    await self._recover(event)
                elif isinstance(event, Failed):
                    raise event.error
                elif isinstance(event, Done):
                    self._tell_figures(event)
                    return

    async def _recover(self, halted: Halted) -> None:
        if self._meta is None:
            self._freeze_at = self._lease.recover_ephemeral(halted, self._read, self._freeze_at)
            return
        assert self._fence is not None
        meta, self._head = self._meta_now(), None
        self._meta = await self._lease.recover(halted, meta, self._fence, self._request_name)
        self._head = self._meta.head

    def _meta_now(self) -> SessionMeta:
        """The session with its head where the journal is known to end."""
        assert self._meta is not None
        assert self._head is not None
        return replace(self._meta, head=self._head)

    def _tell_figures(self, done: Done) -> None:
        if self._request.finished is not None:
            seq = None if self._meta is None else self._seq
            freeze = self._freeze_at if self._meta is None else self._meta.path.freeze
            figures = TurnFigures(
                seq, done.learned_tokens, done.level_writes, done.drift, frozen=freeze is not None
            )
            self._request.finished(figures)

    async def _commit_sampled(self, sampled: list[Sampled]) -> None:
        first_seq = self._seq + 1
        count, tokens = sampled[-1].index + 1, tuple(event.token for event in sampled)
        if self._meta is None:
            self._read.append(JournalRecord(first_seq, "step", "model", tokens))
        else:
            answered = self._request.answered
            record = JournalRecord(
                first_seq,
                "step",
                "model",
                tokens,
                sampler=Sampler(self._seed, self._seq - self._meta.path.base_seq),
                request=self._request_name,
                transcript=None if answered is None else answered(count),
                learn=self._request.learn,
            )
            await self._append([record])
        self._lease.committed(len(sampled))
        if self._generated == 0:
            self._desk.observer.on_ttft(self._desk.clock() - self._started)
        self._generated = count
        for offset, event in enumerate(sampled):
            seq = first_seq + offset if self._meta is not None else None
            token = TokenEvent(event.token, event.index, seq, event.finish_reason, event.logprob)
            if event.finish_reason is None:
                self._out.put_nowait(token)
            else:
                self._last = token

    async def _append(self, records: Sequence[JournalRecord]) -> None:
        assert self._meta is not None
        assert self._fence is not None
        assert self._head is not None
        head, self._head, self._learning = self._head, None, True
        started = self._desk.clock()
        try:
            self._head = await self._desk.store.append(
                self._meta.key,
                self._fence,
                expected=head,
                records=records,
                idempotency_key=self._turn_key(),
            )
        except AlreadyLearned:  # refused, so the journal is where it was
            self._head = head
            raise
        seconds = self._desk.clock() - started
        self._desk.observer.on_commit(seconds, tokens=self._head.seq - head.seq)
        self._spans.committed(seconds)

    def _turn_key(self) -> TurnKey | None:
        key = self._request.idempotency_key
        assert self._meta is not None
        return None if key is None else TurnKey(key, self._first_seq)

    @property
    def _seq(self) -> int:
        """Last committed seq; 0 throughout for an ephemeral session."""
        return 0 if self._head is None else self._head.seq


def _append_size(records: Sequence[JournalRecord]) -> int:
    """How many of ``records``, at least one, fit into one append."""
    tokens = 0
    for size, record in enumerate(records[:MAX_APPEND_RECORDS]):
        tokens += len(record.tokens)
        if tokens > MAX_APPEND_TOKENS:
            return size
    return min(len(records), MAX_APPEND_RECORDS)
