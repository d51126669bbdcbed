"""Calls in any order on a real server that is killed in between: a model in Python says what each gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.chaos.book import Book, Turn
from tests.chaos.checkpoint import write_checkpoint

from hope_client import AlreadyLearned, Client, HopeClientError, NotFoundError
from hope_client.wire import Event

Walk = tuple[tuple[str, int, bool], ...]
"""The tokens of a state: how each was read, which it is, and whether a turn begins with it."""

PROMPTS = [(200, 201), (300,) * 40, tuple(range(500, 531)), (4000, 4001)]
"""Few, so that the same turn often meets the same state."""
LENGTHS = st.integers(1, 6)
SEQS = st.floats(0, 1)
"""A place in a journal, as a part of its length."""


class Killable:
    """A server, its client, and how often it may still be killed."""

    def __init__(self, start: Callable[[], Any], kills: int) -> None:
        self._start, self.kills, self.killed = start, kills, 0
        self._begin()

    def _begin(self) -> None:
        self.server = self._start()
        self.client = Client(self.server.url, timeout=60, max_retries=0)

    def kill(self) -> None:
        self.kills -= 1
        self.killed += 1
        self.server.kill()
        self.client.close()

    def restart(self) -> None:
        self.kill()
        self._begin()

    def revive(self) -> None:
        """After :meth:`kill`."""
        self._begin()

    def stop(self) -> int:
        """The exit status."""
        self.client.close()
        status: int = self.server.stop()
        return status

    def events(self, session: str, after: int) -> list[Event]:
        """The journal beyond ``after``; the pages are small."""
        events: list[Event] = []
        while True:
            at = events[-1].seq if events else after
            page = self.client.sessions.events(session, after=at, limit=37)
            events += page.events
            if not page.events or events[-1].seq == page.head:
                return events


class Known:
    """What the model knows of one session."""

    def __init__(self, session: str) -> None:
        self.book = Book(session)
        self.paths: list[Walk] = [()]
        """Of the state after each number of the journal."""
        self.turns: dict[str, tuple[Turn, int, int]] = {}
        """By idempotency key: the turn, its first and its last number."""

    @property
    def id(self) -> str:
        return self.book.session

    def at(self, part: float) -> int:
        """A number of the journal."""
        return round(part * self.book.head)

    def follow(self, before: int) -> None:
        """The paths of what one turn has added to the book."""
        for seq in range(before, self.book.head):
            entry = self.book.entries[seq]
            assert entry.token is not None
            self.paths.append((*self.paths[-1], (entry.kind, entry.token, seq == before)))


class ApiMachine(RuleBasedStateMachine):
    """Sessions of one client; everything is compared as soon as it is answered."""

    sessions: Bundle[Known] = Bundle("sessions")

    def __init__(self, server: Killable) -> None:
        super().__init__()
        self.server = server
        self.known: list[Known] = []
        self.gone: list[str] = []
        self.answers: dict[tuple[Walk, tuple[int, ...], int], list[int]] = {}
        self.keys = 0

    @initialize(target=sessions)
    def begin(self) -> Known:
        return self._made(Known(self.server.client.sessions.create().id))

    @rule(target=sessions)
    def create(self) -> Known:
        return self._made(Known(self.server.client.sessions.create().id))

    def _made(self, known: Known) -> Known:
        self.known.append(known)
        return known

    @rule(of=sessions, prompt=st.sampled_from(PROMPTS), tokens=LENGTHS, stream=st.booleans())
    def turn(self, of: Known, prompt: tuple[int, ...], tokens: int, stream: bool) -> None:
        turn = Turn(prompt, tokens)
        self._send(of, turn, key := self._key(), stream=stream)
        turn.complete = True
        self._learned(of, turn, key)

    @rule(of=sessions, which=SEQS, stream=st.booleans())
    def repeat(self, of: Known, which: float, stream: bool) -> None:
        """A turn that was learned is not learned again, and the answer says where it is."""
        if not of.turns:
            return
        key = list(of.turns)[round(which * (len(of.turns) - 1))]
        turn, first, last = of.turns[key]
        with pytest.raises(AlreadyLearned) as refused:
            self._send(of, turn, key, stream=stream)
        assert (refused.value.first_seq, refused.value.last_seq) == (first, last)

    @precondition(lambda self: self.server.kills > 0)
    @rule(of=sessions, prompt=st.sampled_from(PROMPTS), seen=st.integers(0, 30))
    def killed_in_a_turn(self, of: Known, prompt: tuple[int, ...], seen: int) -> None:
        """What was seen of the answer is there, once; the same request goes no further."""
        turn, key = Turn(prompt, 2000), self._key()
        stream = self.server.client.completions(
            prompt, stream=True, continuous_usage=True, **self._options(of, turn, key)
        )
        with stream:
            for chunk in stream:
                turn.text += "".join(choice.text for choice in chunk.choices)
                turn.tokens = chunk.usage.completion_tokens if chunk.usage else turn.tokens
                if turn.tokens > seen:
                    break
            self.server.kill()
            with pytest.raises(HopeClientError):
                for _ in stream:
                    pass
        self.server.revive()
        with pytest.raises(AlreadyLearned):
            self._send(of, Turn(prompt, 2000), key, stream=False)
        self._learned(of, turn, key)

    @precondition(lambda self: self.server.kills > 0)
    @rule()
    def killed(self) -> None:
        self.server.restart()

    @rule(target=sessions, of=sessions, part=SEQS)
    def fork(self, of: Known, part: float) -> Known:
        seq = of.at(part)
        forked = self.server.client.sessions.fork(of.id, seq=seq)
        twin = Known(forked.id)
        twin.book, twin.paths = of.book.fork(forked.id, seq), of.paths[: seq + 1]
        assert (forked.seq, forked.tokens) == (seq, len(twin.paths[-1]))
        return self._made(twin)

    @rule(of=sessions, part=SEQS)
    def rollback(self, of: Known, part: float) -> None:
        seq = of.at(part)
        self.server.client.sessions.rollback(of.id, seq=seq)
        self._returned(of, "rollback", seq)

    @rule(of=sessions)
    def reset(self, of: Known) -> None:
        self.server.client.sessions.reset(of.id)
        self._returned(of, "reset", 0)

    def _returned(self, of: Known, kind: str, seq: int) -> None:
        of.book.read_return(self.server.events(of.id, of.book.head), kind, seq, attempts=1)
        of.paths.append(of.paths[seq])
        self._same(of)

    @rule(target=sessions, of=consumes(sessions))
    def delete(self, of: Known) -> Any:
        """Gone for every call, and for another server process too."""
        client = self.server.client
        assert client.sessions.delete(of.id).id == of.id
        self.known.remove(of)
        self.gone.append(of.id)
        for ask in (client.sessions.get, client.sessions.events, client.sessions.delete):
            with pytest.raises(NotFoundError):
                ask(of.id)
        return multiple()

    @rule()
    def listed(self) -> None:
        found: set[str] = set()
        after, more = None, True
        while more:
            page = self.server.client.sessions.list(after=after, limit=3)
            found |= {session.id for session in page.data}
            after, more = page.last_id, page.has_more
        assert {known.id for known in self.known} <= found
        assert found.isdisjoint(self.gone)

    @rule(of=sessions, part=SEQS)
    def events(self, of: Known, part: float) -> None:
        seq = of.at(part)
        found = [(event.kind, event.token) for event in self.server.events(of.id, seq)]
        assert found == [(entry.kind, entry.token) for entry in of.book.entries[seq:]]

    @rule(of=sessions)
    def verified(self, of: Known) -> None:
        found = self.server.client.sessions.verify(of.id)
        assert found.equal
        assert (found.seq, found.tokens) == (of.book.head, len(of.paths[-1]))

    def teardown(self) -> None:
        for known in self.known:
            self._same(known)
            known.book.compare(self.server.events(known.id, 0))
            assert self.server.client.sessions.verify(known.id).equal
            self.server.client.sessions.delete(known.id)

    def _key(self) -> str:
        self.keys += 1
        return f"key-{self.keys}"

    def _options(self, of: Known, turn: Turn, key: str) -> Any:
        return {
            "session_id": of.id,
            "idempotency_key": key,
            "max_tokens": turn.max_tokens,
            "seed": 1,
            "ignore_eos": True,
        }

    def _send(self, of: Known, turn: Turn, key: str, *, stream: bool) -> None:
        """Ask, read the whole answer into ``turn``."""
        client, options = self.server.client, self._options(of, turn, key)
        if stream:
            pieces = client.completions(turn.prompt, stream=True, include_usage=True, **options)
            text = "".join(pieces.text())
            usage = pieces.usage
        else:
            answer = client.completions(turn.prompt, **options)
            text, usage = answer.choices[0].text, answer.usage
        assert usage is not None
        assert usage.prompt_tokens == len(turn.prompt)
        turn.text, turn.tokens = text, usage.completion_tokens

    def _learned(self, of: Known, turn: Turn, key: str) -> None:
        """The journal has the turn and nothing else that is new; equal turns of equal states are equal."""
        before, state = of.book.head, of.paths[-1]
        answer = of.book.read_turn(self.server.events(of.id, before), turn)
        of.book.room = 0  # its turn is over: it was answered to its end, or its server is dead
        of.follow(before)
        of.turns[key] = (turn, before + 1, of.book.head)
        if turn.complete:
            assert self.answers.setdefault((state, turn.prompt, turn.max_tokens), answer) == answer
        self._same(of)

    def _same(self, of: Known) -> None:
        found = self.server.client.sessions.get(of.id)
        assert (found.seq, found.tokens) == (of.book.head, len(of.paths[-1]))
        assert of.book.tokens == found.tokens


@pytest.mark.parametrize(
    ("examples", "steps", "kills"), [(1, 25, 1), pytest.param(25, 30, 10_000, marks=pytest.mark.slow)]
)
def test_calls_and_kills_in_any_order(
    start_server: Any, tmp_path: Path, examples: int, steps: int, kills: int
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    server = Killable(lambda: start_server("--model", str(checkpoint)), kills)
    machine: Any = lambda: ApiMachine(server)  # noqa: E731  # its annotation asks for a class
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=examples < 10,
            database=None,
            phases=[Phase.generate],  # a shorter example would cost more kills than it is worth
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert server.killed >= min(kills, 10)
    assert server.stop() == 0
