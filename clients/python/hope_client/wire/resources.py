"""Models, sessions, their levels and events, health, errors."""

from typing import Annotated, Literal

from pydantic import Field

from hope_client.wire.base import (
    MAX_NAME_CHARS,
    Learn,
    Learning,
    MessageRole,
    Origin,
    Request,
    Response,
    Seq,
    none_is_absent,
)


class SessionCreate(Request):
    """POST /v1/sessions. An empty body is a session without a name."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None


class SessionUpdate(Request):
    """PATCH /v1/sessions/{id}."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]


class SessionFork(Request):
    """POST /v1/sessions/{id}/fork: from the journal's entry `seq` on; from its head unless given."""

    seq: Seq | None = None
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None


class SessionRollback(Request):
    """POST /v1/sessions/{id}/rollback: back to how the session stood after the entry `seq`."""

    seq: Seq


class Model(Response):
    """A model that the server serves."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "hope"


class ModelList(Response):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Session(Response):
    """A session. `seq`: its last committed journal entry; `tokens`: those its state has read; `learning`:
    "frozen" once it learns no more, which a rollback to before that entry, or a reset, undoes.
    """

    id: str
    object: Literal["session"] = "session"
    name: str | None = None
    created_at: float
    model: str
    seq: int
    tokens: int
    learning: Learning = "on"


class SessionList(Response):
    """GET /v1/sessions: one page; the next one is asked for with `after=last_id` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Session]
    last_id: str | None = None
    has_more: bool = False


class SessionDeleted(Response):
    """DELETE /v1/sessions/{id}."""

    id: str
    object: Literal["session.deleted"] = "session.deleted"
    deleted: Literal[True] = True


class Verification(Response):
    """POST /v1/sessions/{id}/verify: hex hashes of the state after `seq`, which are equal if all is well.

    `replayed_sha256`: computed from the whole journal; `restored_sha256`: from the snapshot at `snapshot_seq`
    (0: there is none) and what follows, as a turn would. `head_sha256`: of the journal's chain of records.
    """

    object: Literal["session.verification"] = "session.verification"
    seq: int
    tokens: int
    head_sha256: str
    replayed_sha256: str
    restored_sha256: str
    snapshot_seq: int
    equal: bool


class LevelDiff(Response):
    """One level's way from a state to another: the Euclidean `norm` of the change, that over the norm of the
    first state (null: it is zero), its largest absolute value, and the cosine of the two (null: one is zero).
    `writes`: by how many writes the second state is ahead of the first.
    """

    name: str
    writes: int
    norm: float
    relative: float | None
    max_abs: float
    cosine: float | None


class Diff(Response):
    """GET /v1/sessions/{id}/diff: from the state after one journal entry to the state after another one."""

    object: Literal["session.diff"] = "session.diff"
    from_seq: int
    to_seq: int
    from_tokens: int
    to_tokens: int
    levels: list[LevelDiff]


class LevelStatus(Response):
    """One level: `frequency` = writes / tokens, both counted; `period` is None for a frozen level. `refused`:
    writes that the guards did not let through.
    """

    name: str
    period: int | None
    tokens: int
    writes: int
    refused: int = 0
    frequency: float
    drift_ratio: float
    bytes: int


class Levels(Response):
    """GET /v1/sessions/{id}/levels."""

    levels: list[LevelStatus]


class SessionLoss(Response):
    """GET /v1/sessions/{id}/loss: what the session's memory is worth on its own recent text.

    `with_memory` and `without_memory`: the mean loss, in nats, over `tokens` of those tokens that others than
    the model wrote between `from_seq` and `to_seq`; null where there is none yet. Both begin at a snapshot of
    the session, taken before it had read that text; the second one with all that it had learned taken out.
    """

    object: Literal["session.loss"] = "session.loss"
    from_seq: int
    to_seq: int
    tokens: int
    with_memory: float | None
    without_memory: float | None


class Event(Response):
    """One journal entry: a token read or written, or (without token and text) a reset, a rollback or a
    freeze, the end of the session's learning.

    `learn` is "off" for a token of a turn that teaches nothing.
    """

    seq: int
    kind: Literal["run", "step", "reset", "rollback", "freeze"]
    token: int | None = None
    text: str | None = None
    origin: Origin
    learn: Learn = "on"


class Events(Response):
    """GET /v1/sessions/{id}/events: entries in order; `head` is the last committed seq."""

    events: list[Event]
    head: int


class SessionMessage(Response):
    """A message as the session's journal has it, from its entry `first_seq` to `last_seq`.

    finished: False for an answer that was cut short: by the client, a limit of tokens, or the server's end.
    learn: "off" for one of a turn that teaches nothing.
    """

    role: MessageRole
    text: str
    first_seq: int
    last_seq: int
    finished: bool
    learn: Learn = "on"


class SessionMessages(Response):
    """GET /v1/sessions/{id}/messages: one page; the next one begins after its last `last_seq`."""

    object: Literal["list"] = "list"
    data: list[SessionMessage]
    has_more: bool = False


class ErrorDetail(Response):
    """What went wrong. `first_seq` and `last_seq` come with the code `already_learned`."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    first_seq: int | None = none_is_absent()
    last_seq: int | None = none_is_absent()


class ErrorBody(Response):
    """The body of every answer with status 400 or above, and of an error inside a stream."""

    error: ErrorDetail


class Health(Response):
    """GET /health: the process is alive."""

    status: Literal["ok"] = "ok"


class Ready(Response):
    """GET /ready: whether requests are admitted, and if not, why."""

    status: Literal["ready", "not_ready"]
    reason: str | None = None
