"""What a tenant's sessions occupy: counted from their heads, so that a count costs no look at the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from hope_server.sessions.session import SessionMeta

SESSION_BYTES = 1024
"""Head, name and index entry."""
TOKEN_BYTES = 64
"""A journal entry with its share of a record's header: 4 to about 100 bytes, by how tokens were committed."""
GENERATIONS = 2
"""Snapshots that are kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Sessions, and the bytes that count for them."""

    sessions: int = 0
    stored_bytes: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.sessions + other.sessions, self.stored_bytes + other.stored_bytes)

    def __sub__(self, other: Stored) -> Stored:
        return Stored(self.sessions - other.sessions, self.stored_bytes - other.stored_bytes)

    @classmethod
    def of(cls, metas: Iterable[SessionMeta], state_bytes: int) -> Self:
        """What these sessions count; `state_bytes` is the size of one snapshot."""
        sessions = total = 0
        for meta in metas:
            sessions += 1
            total += SESSION_BYTES + journal_bytes(meta.seq)
            total += snapshot_bytes(state_bytes) if meta.snapshot_seq else 0
        return cls(sessions, total)


def journal_bytes(tokens: int) -> int:
    """What a journal of `tokens` counts."""
    return TOKEN_BYTES * tokens


def snapshot_bytes(state_bytes: int) -> int:
    """What the snapshots of one session count."""
    return GENERATIONS * state_bytes
