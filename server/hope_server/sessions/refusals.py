"""Why a store refuses a call, in the words that every store uses."""

from hope_server.errors import (
    AlreadyLearned,
    Fenced,
    InvalidRequest,
    LeaseHeld,
    SequenceConflict,
    SessionCorrupted,
    SessionNotFound,
    SessionQuarantined,
    TooManyDocuments,
)
from hope_server.sessions.key import SessionKey


def not_found(session: SessionKey) -> SessionNotFound:
    return SessionNotFound(f"there is no session {session.session}")


def fenced(session: SessionKey) -> Fenced:
    return Fenced(f"session {session.session} has moved to another worker")


def too_many_documents(session: SessionKey) -> TooManyDocuments:
    return TooManyDocuments(
        f"session {session.session} keeps as many responses and items as it may: delete some, or go on "
        "without storing them"
    )


def damaged_document(session: SessionKey, name: str) -> SessionCorrupted:
    return SessionCorrupted(f"the document {name} of session {session.session} is damaged")


def quarantined(session: SessionKey) -> SessionQuarantined:
    message = f"session {session.session} is quarantined: its journal was found damaged; its bytes are kept"
    return SessionQuarantined(message)


def lease_held(session: SessionKey, seconds: float) -> LeaseHeld:
    return LeaseHeld(
        f"session {session.session} is in a turn of another worker, whose lease has {seconds:.1f} s left"
    )


def outside(seq: int, *, head: int, last: int) -> SequenceConflict:
    return SequenceConflict(
        f"a snapshot must lie on the session's path, from {last} to {head}, and in its journal, found {seq}"
    )


def already_learned(first_seq: int, last_seq: int) -> AlreadyLearned:
    message = f"this idempotency key was used for tokens {first_seq} to {last_seq}"
    return AlreadyLearned(message, first_seq=first_seq, last_seq=last_seq)


def moved_on(expected_seq: int, found_seq: int) -> SequenceConflict:
    if expected_seq == found_seq:
        return SequenceConflict(f"expected another history of the session up to {expected_seq}")
    return SequenceConflict(f"expected the session's head at {expected_seq}, found {found_seq}")


def no_such_seq(seq: int, head: int) -> InvalidRequest:
    return InvalidRequest(f"expected a sequence number from 0 to {head}, found {seq}", param="seq")


def already_frozen(session: SessionKey) -> SequenceConflict:
    return SequenceConflict(f"expected session {session.session} to learn, found that its learning has ended")


def taken(session: SessionKey) -> SequenceConflict:
    return SequenceConflict(f"expected a new session id, found session {session.session}")
