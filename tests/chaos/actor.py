"""A client that lives through the faults: it drives one session after another and believes nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

from tests.chaos.book import Book, LearnedTwice, Lost, Turn
from tests.chaos.ledger import Ledger, Recovery
from tests.chaos.tenant import FOREIGN_WAYS, Tenant

from hope_client import (
    AlreadyLearned,
    APIConnectionError,
    APIError,
    AsyncClient,
    HopeClientError,
    NotFoundError,
)
from hope_client.wire import Event, Events, Session

if TYPE_CHECKING:
    from tests.chaos.world import World

T = TypeVar("T")
PASSING = frozenset(
    {"store_unavailable", "lease_held", "session_busy", "session_fenced", "shutting_down", "turn_timeout"}
)
"""Codes of answers that faults may cause; the request is sent again."""
MAX_TOKENS = 24
LONG_PROMPT = 90
MOST_ENTRIES = 700
"""A session that has as many is ended and another one begun."""
PATIENCE_S = 120.0
OPEN, CLOSE = 4000, 4001
"""Tokens around a turn's number; both are whole characters."""


class Unexpected(Exception):
    """An answer that no fault explains."""


class Actor:
    """One client of ``tenant``, which never does two things at a time."""

    def __init__(self, world: World, tenant: Tenant, seed: int) -> None:
        self._world, self._tenant, self._rng = world, tenant, Random(seed)
        self._ledger: Ledger = world.ledger
        self._turns = 0
        self.recovery = Recovery(world.ledger)

    async def live(self) -> None:
        """Until the faults are over; then bring everything to its end."""
        while not self._world.over:
            book = Book("")
            try:
                book = Book(await self._create())
                await self._drive(book)
                await self._check(book)
                await self._delete(book)
            except Lost as error:
                self._ledger.lost += error.tokens
                self._complain(f"lost in {book.session}: {error}")
            except NotFoundError:
                self._ledger.lost += max(1, book.head)
                self._complain(f"lost {book.session} as a whole")
            except LearnedTwice as error:
                self._ledger.learned_twice += 1
                self._complain(f"learned twice in {book.session}: {error}")
            except Unexpected as error:
                self._ledger.unexpected += 1
                self._complain(f"{book.session}: {error}")

    def _complain(self, note: str) -> None:
        self._ledger.notes.append(f"{self._tenant.name}: {note}")

    async def _drive(self, book: Book) -> None:
        deck = {
            self._streamed_turn: 10,
            self._whole_turn: 5,
            self._left_turn: 4,
            self._rollback: 2,
            self._fork: 1,
            self._reset: 1,
            self._check: 2,
            self._foreign: 2,
        }
        while not self._world.over and book.head < MOST_ENTRIES:
            (work,) = self._rng.choices(list(deck), list(deck.values()))
            await work(book)
            self._ledger.work[work.__name__.strip("_").replace("_", " ")] += 1

    # Turns.

    async def _streamed_turn(self, book: Book) -> None:
        await self._turn(book, self._stream)

    async def _whole_turn(self, book: Book) -> None:
        await self._turn(book, self._whole)

    async def _left_turn(self, book: Book) -> None:
        """A client that goes away in the middle of its stream, and asks later what became of it."""
        await self._turn(book, self._leave)

    async def _turn(
        self, book: Book, attempt: Callable[[AsyncClient, Book, Turn, str], Awaitable[None]]
    ) -> None:
        """One turn until it is certain."""
        turn = Turn(self._prompt(), self._rng.randint(1, MAX_TOKENS))
        key = secrets.token_hex(8)

        async def send(client: AsyncClient) -> None:
            await attempt(client, book, turn, key)

        try:
            await self._ask(send)
        except AlreadyLearned:
            turn.complete = False
        ended = book.ends
        book.read_turn(await self._tail(book), turn)
        self._ledger.work["learning ended"] += book.ends - ended

    def _prompt(self) -> tuple[int, ...]:
        """No other turn of this run reads these tokens; they hold the tenant's canary."""
        self._turns += 1
        number = self._turns
        filler = [self._rng.randrange(100, 8000)] * (LONG_PROMPT if self._rng.random() < 0.2 else 0)
        canary = self._world.tokens_of(self._tenant.canary)
        return (*canary, *filler, OPEN, 100 + number // 3000, 100 + number % 3000, CLOSE)

    async def _whole(self, client: AsyncClient, book: Book, turn: Turn, key: str) -> None:
        answer = await client.completions(
            turn.prompt,
            session_id=book.session,
            idempotency_key=key,
            max_tokens=turn.max_tokens,
            seed=1,
            ignore_eos=True,
        )
        self._not_again(turn)
        assert answer.usage is not None
        self._acknowledge(turn, answer.choices[0].text, answer.usage.completion_tokens)
        turn.complete = True

    async def _stream(
        self, client: AsyncClient, book: Book, turn: Turn, key: str, leave_after: int | None = None
    ) -> None:
        stream = await client.completions(
            turn.prompt,
            session_id=book.session,
            idempotency_key=key,
            max_tokens=turn.max_tokens,
            seed=1,
            ignore_eos=True,
            stream=True,
            continuous_usage=True,
        )
        self._not_again(turn)
        async with stream:
            async for chunk in stream:
                text = "".join(choice.text for choice in chunk.choices)
                tokens = chunk.usage.completion_tokens if chunk.usage else turn.tokens
                self._acknowledge(turn, text, tokens)
                if leave_after is not None and tokens > leave_after:
                    self._ledger.faults["client left"] += 1
                    raise APIConnectionError("left")
        turn.complete = True

    async def _leave(self, client: AsyncClient, book: Book, turn: Turn, key: str) -> None:
        await self._stream(client, book, turn, key, leave_after=self._rng.randrange(MAX_TOKENS))

    def _not_again(self, turn: Turn) -> None:
        if turn.tokens:
            raise LearnedTwice("a turn of which tokens had been sent was answered anew")

    def _acknowledge(self, turn: Turn, text: str, tokens: int) -> None:
        if tokens > turn.tokens:
            new = tokens - turn.tokens + (0 if turn.tokens else len(turn.prompt))
            self._ledger.acknowledged += new
            self.recovery.served()
        turn.text += text
        turn.tokens = max(turn.tokens, tokens)

    # Time travel.

    async def _rollback(self, book: Book) -> None:
        seq = self._rng.randint(0, book.head)
        session, attempts = await self._counted(lambda c: c.sessions.rollback(book.session, seq=seq))
        book.read_return(await self._tail(book), "rollback", seq, attempts)
        self._same(book, session)

    async def _reset(self, book: Book) -> None:
        session, attempts = await self._counted(lambda c: c.sessions.reset(book.session))
        book.read_return(await self._tail(book), "reset", 0, attempts)
        self._same(book, session)

    async def _fork(self, book: Book) -> None:
        """A fork is its source up to there, to the bit, and goes on as the source does."""
        await self._settle(book)
        seq = book.head if self._rng.random() < 0.5 else self._rng.randint(0, book.head)
        name = f"{self._tenant.canary}-{secrets.token_hex(4)}"
        forked = await self._made(name, lambda c: c.sessions.fork(book.session, seq=seq, name=name))
        twin = book.fork(forked.id, seq)
        self._same(twin, forked)
        await self._whole_turn(twin)
        await self._check(twin)
        await self._delete(twin)

    def _same(self, book: Book, session: Session) -> None:
        if (session.seq, session.tokens) != (book.head, book.tokens):
            raise Lost(f"expected head {book.head} and {book.tokens} tokens, found {session}")
        learning = "on" if book.learns[-1] else "frozen"
        if session.learning != learning:
            raise Unexpected(f"expected learning {learning} after {book.head}, found {session}")

    # What must hold.

    async def _check(self, book: Book) -> None:
        """The whole journal, the head, and the state computed anew."""
        await self._settle(book)
        book.compare(await self._events(book, after=0))
        self._same(book, await self._ask(lambda c: c.sessions.get(book.session)))
        found = await self._ask(lambda c: c.sessions.verify(book.session))
        if not found.equal or (found.seq, found.tokens) != (book.head, book.tokens):
            self._ledger.hash_mismatches += 1
            self._complain(f"hash mismatch in {book.session}: {found}")
        self._ledger.work["state verified"] += 1

    async def _settle(self, book: Book) -> None:
        """After a turn that ends here nothing can be added to an earlier one."""
        while book.room:
            await self._whole_turn(book)

    async def _foreign(self, book: Book) -> None:
        sessions = [one for other in self._tenant.others for one in sorted(other.sessions)]
        if sessions:
            session, way = self._rng.choice(sessions), self._rng.choice(FOREIGN_WAYS)
            await self._ask(lambda c: self._tenant.try_foreign(c, session, way))

    # Requests.

    async def _create(self) -> str:
        name = f"{self._tenant.canary}-{secrets.token_hex(4)}"
        return (await self._made(name, lambda c: c.sessions.create(name))).id

    async def _made(self, name: str, make: Callable[[AsyncClient], Awaitable[Session]]) -> Session:
        """A new session called ``name``; lost answers may leave others of that name."""
        made, attempts = await self._counted(make)
        if attempts > 1:
            self._tenant.doubtful.add(name)
        self._tenant.sessions.add(made.id)
        return made

    async def _delete(self, book: Book) -> None:
        tries = 0

        async def delete(client: AsyncClient) -> None:
            nonlocal tries
            tries += 1
            await client.sessions.delete(book.session)

        try:
            await self._ask(delete)
        except NotFoundError:
            if tries == 1:  # else an attempt without an answer did it
                raise
        self._tenant.sessions.discard(book.session)

    async def _tail(self, book: Book) -> list[Event]:
        return await self._events(book, after=book.head)

    async def _events(self, book: Book, *, after: int) -> list[Event]:
        events: list[Event] = []
        while True:
            at = events[-1].seq if events else after
            page = await self._ask(partial(_page, session=book.session, after=at))
            events += page.events
            if not page.events or events[-1].seq >= page.head:
                self._tenant.look("".join(event.text or "" for event in events).encode(), "its journal")
                return events

    async def _counted(self, work: Callable[[AsyncClient], Awaitable[T]]) -> tuple[T, int]:
        """And how often it was tried."""
        tries = 0

        async def one(client: AsyncClient) -> T:
            nonlocal tries
            tries += 1
            return await work(client)

        return await self._ask(one), tries

    async def _ask(self, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
        """``work`` at one worker after another until faults let it come to its end.

        Raises AlreadyLearned, NotFoundError, and Unexpected for whatever no fault explains.
        """
        async with asyncio.timeout(None) as patience:
            patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
            last: Exception = APIConnectionError("no worker answered")
            try:
                while True:
                    worker = self._world.pick_worker(self._rng)
                    if worker is not None and worker.url is not None:
                        self.recovery.worker = worker.number
                        try:
                            return await work(self._tenant.client(worker.url))
                        except (AlreadyLearned, NotFoundError):
                            raise
                        except HopeClientError as error:
                            last = error
                            if not _passes(error):
                                raise Unexpected(f"{type(error).__name__}: {error}") from error
                        finally:
                            self.recovery.worker = None
                    await asyncio.sleep(self._rng.uniform(0.02, 0.2))
            except TimeoutError:
                raise Unexpected(f"nothing but {last!r} for {PATIENCE_S} s") from last


async def _page(client: AsyncClient, *, session: str, after: int) -> Events:
    return await client.sessions.events(session, after=after)


def _passes(error: HopeClientError) -> bool:
    if isinstance(error, APIConnectionError):
        return True
    return isinstance(error, APIError) and error.code in PASSING
