"""Sessions that ``hope eval`` measures on a running server, as any user of its API has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from hope_client import Client, HopeClientError, wire
from hope_model.convert.progress import Progress, silent
from hope_model.errors import EvaluationError
from hope_model.evaluate.sessions.asking import STOP, Question, Reply, until_stop

READ_TOKENS = 8_192
"""Of one request that reads."""
BRANCHES = 8
"""Forks that are asked at one time."""
T = TypeVar("T")


@contextmanager
def open_server(url: str, key: str | None) -> Iterator[RemoteSubject]:
    """The model that the server at ``url`` serves. Raises EvaluationError."""
    with _named(url), Client(url, api_key=key) as client:
        yield RemoteSubject(client, url)


class RemoteSubject:
    """See :class:`~hope_model.evaluate.sessions.asking.Subject`; the server's window is what it is."""

    widens = False

    def __init__(self, client: Client, url: str) -> None:
        self._client, self._url = client, url
        with _named(url):
            self._start = client.tokenize("").tokens
            self.name = client.models().data[0].id

    @property
    def rule(self) -> str:
        """Not told by a server."""
        return "served"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        with _named(self._url):
            return _side_by_side(self._encode, texts)

    def start(self) -> list[int]:
        return self._start

    @contextmanager
    def session(self, *, learn: bool) -> Iterator[RemoteSession]:
        with _named(self._url):
            made = self._client.sessions.create()
        session = RemoteSession(self._client, self._url, made.id, "on" if learn else "off")
        try:
            yield session
        except BaseException:
            # Whoever is measured may be gone; what went wrong first is what is told.
            with _forgiving():
                self._client.sessions.delete(made.id)
            raise
        with _named(self._url):
            self._client.sessions.delete(made.id)

    @contextmanager
    def wide(self, tokens: int) -> Iterator[RemoteSession]:
        with self.session(learn=False) as session:
            yield session

    def _encode(self, text: str) -> list[int]:
        return self._client.tokenize(text).tokens[len(self._start) :]


class RemoteSession:
    """A stored session. Every branch is a fork of it, asked with ``learn: "off"`` and deleted."""

    def __init__(self, client: Client, url: str, session_id: str, learn: wire.Learn) -> None:
        self._client, self._url, self._id, self._learn = client, url, session_id, learn

    def read(self, ids: Sequence[int]) -> None:
        """See ``TextSession``."""
        with _named(self._url):
            for at in range(0, len(ids), READ_TOKENS):
                part = list(ids[at : at + READ_TOKENS])
                self._client.completions(part, session_id=self._id, max_tokens=0, learn=self._learn)

    def ask(self, questions: Sequence[Question], progress: Progress = silent) -> list[Reply]:
        """See ``TextSession``."""
        replies: list[Reply] = []
        with _named(self._url):
            for at in range(0, len(questions), BRANCHES):
                some = questions[at : at + BRANCHES]
                texts = iter(_side_by_side(self._answer, [each for each in some if each.limit]))
                judged = [(each.prompt, answer) for each in some for answer in each.answers]
                nats = iter(_side_by_side(self._judge, judged))
                for each in some:
                    likely = tuple(next(nats) for _ in each.answers)
                    replies.append(Reply(likely, next(texts) if each.limit else ""))
                progress("questions", len(replies), len(questions))
        return replies

    def _answer(self, question: Question) -> str:
        with self._fork() as fork:
            asked = self._client.completions(
                list(question.prompt),
                session_id=fork,
                max_tokens=question.limit,
                temperature=0.0,
                stop=[STOP],
                learn="off",
            )
        return until_stop(asked.choices[0].text)

    def _judge(self, pair: tuple[Sequence[int], Sequence[int]]) -> float:
        prompt, answer = pair
        with self._fork() as fork:
            asked = self._client.completions(
                [*prompt, *answer], session_id=fork, max_tokens=0, echo=True, logprobs=0, learn="off"
            )
        logprobs = asked.choices[0].logprobs
        found = [] if logprobs is None else logprobs.token_logprobs[-len(answer) :]
        values = [value for value in found if value is not None]
        if len(values) != len(answer):
            raise EvaluationError(
                f"{self._url}/v1/completions: expected log-probabilities of {len(answer)} echoed tokens, "
                f"found {len(values)}"
            )
        return sum(values)

    @contextmanager
    def _fork(self) -> Iterator[str]:
        fork = self._client.sessions.fork(self._id).id
        try:
            yield fork
        finally:
            with _forgiving():
                self._client.sessions.delete(fork)


def _side_by_side(work: Callable[..., T], given: Sequence[object]) -> list[T]:
    """``work`` of each, in order; the first failure ends it."""
    with ThreadPoolExecutor(BRANCHES) as pool:
        waiting = [pool.submit(partial(work, each)) for each in given]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _named(url: str) -> Iterator[None]:
    try:
        yield
    except HopeClientError as error:
        # What a server says may be a page of lines.
        raise EvaluationError(f"{url.strip()}: {' '.join(str(error).split())}") from error


@contextmanager
def _forgiving() -> Iterator[None]:
    """What could not be deleted stays on the server, with its tenant."""
    try:
        yield
    except HopeClientError:
        return
