"""Retries without a key: OpenAI's clients send a request again by themselves and only count the attempts.

Such a client sends `x-stainless-retry-count`, 0 at first, and the same body each time. Every turn of a
session that has it and no Idempotency-Key is named in the journal by its route and body. A later attempt is
refused if the session's last turn has its name: that turn was the attempt before, whose answer got lost. The
journal is the store's, so this holds on every server and after a crash.

A caller who really says the same thing twice in a row is not refused: the second time starts at 0. Only if it
is then sent again because it was refused for a while (busy, overloaded) could it be mistaken for the first;
so what was refused is remembered, by the server that did.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from fastapi import Request

from hope_server.engine.request import request_name
from hope_server.errors import HopeError
from hope_server.sessions.key import SessionKey
from hope_server.sessions.refusals import already_learned

if TYPE_CHECKING:
    from hope_server.api.tenancy import TenantSessions

RETRY_COUNT_HEADER = "x-stainless-retry-count"
MAX_TURN_TOKENS = 4096
"""Tokens at the journal's end among which the last turn's beginning is looked for."""
MAX_REFUSED = 4096


def fingerprint_of(request: Request) -> str:
    """What all attempts have in common; empty for a client that does not count them. Reads no body."""
    if not _attempt(request):
        return ""
    return f"{request.url.path} {request.state.body_sha256}"


def is_repeated(request: Request) -> bool:
    """Whether the client says that it has sent this before."""
    return _attempt(request) not in ("", "0")


def _attempt(request: Request) -> str:
    """The attempt's number, empty without one."""
    count: str = request.headers.get(RETRY_COUNT_HEADER, "")
    return count if re.fullmatch(r"[0-9]{1,4}", count) else ""


async def refuse_repeated(sessions: TenantSessions, session_id: str, fingerprint: str) -> None:
    """Raises AlreadyLearned if the session's last turn was this request."""
    head, name = (await sessions.get(session_id)).seq, request_name(fingerprint)
    after, records = max(0, head - MAX_TURN_TOKENS), []
    while after < head:
        page, _ = await sessions.events(session_id, after=after, limit=MAX_TURN_TOKENS)
        if not page:
            break
        records += page
        after = page[-1].last_seq
    asked = (record for record in reversed(records) if record.kind != "freeze")
    turn = list(takewhile(lambda record: record.request == name, asked))
    if turn:
        raise already_learned(turn[-1].first_seq, turn[0].last_seq)


class Refusals:
    """Attempts that were refused before anything was learned of them, the latest ones."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[tuple[SessionKey, str], object] = OrderedDict()

    @contextmanager
    def noting(self, session: SessionKey | None, fingerprint: str) -> Iterator[None]:
        """An attempt: an error from inside that may be retried came before anything was learned."""
        try:
            yield
        except HopeError as error:
            if error.retry and fingerprint and session is not None:
                self._attempts[session, fingerprint] = None
                if len(self._attempts) > MAX_REFUSED:
                    self._attempts.popitem(last=False)
            raise

    def forget(self, session: SessionKey, fingerprint: str) -> bool:
        """Whether the attempt before was refused."""
        return self._attempts.pop((session, fingerprint), _ABSENT) is None


_ABSENT = object()
