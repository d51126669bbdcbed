"""Every error this server raises on purpose: one tree, each leaf with an HTTP status and a stable code.

    HopeError
    ├── RequestError                    the caller can mend it
    │   ├── InvalidRequest              400  invalid_request (or a narrower code of the same status)
    │   ├── EmptyPrompt                 400  empty_prompt
    │   ├── ContextTooLong              400  prompt_too_long
    │   ├── Unauthorized                401  invalid_api_key (or missing_api_key)
    │   ├── Forbidden                   403  forbidden (or loopback_only)
    │   ├── ModelNotFound               404  model_not_found
    │   ├── ResponseNotFound            404  response_not_found     (or conversation_, item_not_found)
    │   ├── RouteNotFound               404  route_not_found
    │   ├── SessionNotFound             404  session_not_found
    │   ├── MethodNotAllowed            405  method_not_allowed
    │   ├── RequestTimeout              408  request_timeout        retry
    │   ├── AlreadyLearned              409  already_learned        first_seq, last_seq
    │   ├── ConversationDiverged        409  conversation_diverged
    │   ├── Fenced                      409  session_fenced         another worker has it: retry
    │   ├── LeaseHeld                   409  lease_held             another worker is in a turn: retry
    │   ├── SequenceConflict            409  sequence_conflict
    │   ├── SessionBusy                 409  session_busy           retry after a moment
    │   ├── TooManyDocuments            409  too_many_documents
    │   ├── BodyTooLarge                413  body_too_large
    │   ├── UnsupportedMediaType        415  unsupported_media_type
    │   ├── HeadTooLarge                431  head_too_large
    │   ├── QueueFull                   429  queue_full             retry after a moment
    │   ├── TooManyTransfers            429  too_many_transfers     retry after a moment
    │   ├── TurnQuotaExceeded           429  turn_quota_exceeded    retry after a moment
    │   ├── TokenQuotaExceeded          429  token_quota_exceeded   retry when the debt is paid
    │   ├── SessionQuotaExceeded        507  session_quota_exceeded
    │   └── StorageQuotaExceeded        507  storage_quota_exceeded
    ├── ServerError                     the caller cannot mend it
    │   ├── InternalError               500  internal_error
    │   ├── SessionCorrupted            500  session_corrupted
    │   ├── SessionQuarantined          500  session_quarantined
    │   ├── SlowWeightsChanged          500  slow_weights_changed
    │   ├── SnapshotCorrupt             500  snapshot_corrupt
    │   ├── EncryptionKeyMissing        503  encryption_key_missing
    │   ├── KeysUnavailable             503  keys_unavailable       retry after a moment
    │   ├── TooManyConnections          503  too_many_connections   retry after a moment
    │   ├── TurnTimeout                 504  turn_timeout
    │   ├── ShuttingDown                503  shutting_down          retry after a moment
    │   └── StoreUnavailable            503  store_unavailable      retry after a moment
    └── StartupError                    the process does not start; names the setting
        ├── ChatTemplateError           ... the checkpoint's chat template cannot be used
        └── StoreConfigError            ... the store's settings or those of its server (503 once started)

`retry` says whether sending the same request again can succeed. Clients and tests rely on the codes: they do
not change.
"""

from __future__ import annotations

from typing import ClassVar


class HopeError(Exception):
    """Base of the tree.

    Args:
        message: What was expected and what was found, in one sentence; of a RequestError safe to show.
        param: Name of the request field (or setting) at fault, if there is one.
        code: A narrower stable code than the class's own.
        retry_after_s: Seconds to wait before the next try; the class's default if not given.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retry: bool = False
    default_code: ClassVar[str] = "internal_error"
    default_retry_after_s: ClassVar[float | None] = None
    public_message: ClassVar[str] = "the server failed on this request"
    """What callers read of an error that is not theirs; `message` is for the log."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s

    def forbid_retry(self) -> None:
        """Sending the same request again would do something a second time."""
        self.retry = False
        self.retry_after_s = None


class RequestError(HopeError):
    """The request cannot be served as it is."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class InvalidRequest(RequestError):
    """A body, header or parameter that does not fit its definition."""


class EmptyPrompt(RequestError):
    """Nothing to read: no prompt, or a conversation without a new message."""

    default_code = "empty_prompt"


class ContextTooLong(RequestError):
    """One request brings more prompt tokens than the server reads at once."""

    default_code = "prompt_too_long"


class Unauthorized(RequestError):
    """No API key, or none that is in force."""

    status = 401
    default_code = "invalid_api_key"


class Forbidden(RequestError):
    """The caller is known, or needs no name, but may not do this."""

    status = 403
    default_code = "forbidden"


class ModelNotFound(RequestError):
    """The named model is not the one served here."""

    status = 404
    default_code = "model_not_found"


class RouteNotFound(RequestError):
    """No such path."""

    status = 404
    default_code = "route_not_found"


class ResponseNotFound(RequestError):
    """No stored response of that id; or, by its code, no such conversation or item."""

    status = 404
    default_code = "response_not_found"


class SessionNotFound(RequestError):
    """No session of that id."""

    status = 404
    default_code = "session_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    status = 405
    default_code = "method_not_allowed"


class RequestTimeout(RequestError):
    """The client took too long to send its request, of which nothing was done."""

    status = 408
    retry = True
    default_code = "request_timeout"


class AlreadyLearned(RequestError):
    """The request's idempotency key was served before; its tokens are not learned again.

    `first_seq` and `last_seq` bound them in the journal.
    """

    status = 409
    default_code = "already_learned"

    def __init__(self, message: str, *, first_seq: int, last_seq: int) -> None:
        super().__init__(message)
        self.first_seq = first_seq
        self.last_seq = last_seq


class ConversationDiverged(RequestError):
    """The messages sent contradict those that the session has already learned."""

    status = 409
    default_code = "conversation_diverged"


class Fenced(RequestError):
    """The session changed hands: another worker writes it now. What was committed before is kept."""

    status = 409
    retry = True
    default_code = "session_fenced"
    default_retry_after_s = 1.0


class LeaseHeld(RequestError):
    """Another worker is in the middle of a turn of the session."""

    status = 409
    retry = True
    default_code = "lease_held"
    default_retry_after_s = 1.0


class SequenceConflict(RequestError):
    """Another writer advanced the session first."""

    status = 409
    default_code = "sequence_conflict"


class SessionBusy(RequestError):
    """The session is in the middle of another turn."""

    status = 409
    retry = True
    default_code = "session_busy"
    default_retry_after_s = 1.0


class TooManyDocuments(RequestError):
    """A session keeps as many responses and conversation items as it may."""

    status = 409
    default_code = "too_many_documents"


class BodyTooLarge(RequestError):
    """More bytes than the server reads for one request."""

    status = 413
    default_code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """A body that is not declared as JSON."""

    status = 415
    default_code = "unsupported_media_type"


class HeadTooLarge(RequestError):
    """The request line and headers are larger than the server reads."""

    status = 431
    default_code = "head_too_large"


class QueueFull(RequestError):
    """As many requests wait as the server lets wait."""

    status = 429
    type = "rate_limit_error"
    retry = True
    default_code = "queue_full"
    default_retry_after_s = 1.0


class TooManyTransfers(RequestError):
    """As many sessions are being exported and imported as the server, or one tenant, may at once."""

    status = 429
    type = "rate_limit_error"
    retry = True
    default_code = "too_many_transfers"
    default_retry_after_s = 1.0


class TurnQuotaExceeded(RequestError):
    """The tenant has as many turns running or waiting as it may."""

    status = 429
    type = "rate_limit_error"
    retry = True
    default_code = "turn_quota_exceeded"
    default_retry_after_s = 1.0


class TokenQuotaExceeded(RequestError):
    """The tenant has used its tokens of this minute."""

    status = 429
    type = "rate_limit_error"
    retry = True
    default_code = "token_quota_exceeded"
    default_retry_after_s = 1.0


class SessionQuotaExceeded(RequestError):
    """The tenant has as many sessions as it may. Waiting alone does not help: somebody has to delete one."""

    status = 507
    type = "insufficient_quota"
    default_code = "session_quota_exceeded"
    default_retry_after_s = 60.0


class StorageQuotaExceeded(RequestError):
    """The tenant's sessions occupy as many bytes as they may."""

    status = 507
    type = "insufficient_quota"
    default_code = "storage_quota_exceeded"
    default_retry_after_s = 60.0


class ServerError(HopeError):
    """The server's own failure."""


class InternalError(ServerError):
    """A bug: what happened is in the log under the request's id, never in the answer."""


class SessionCorrupted(ServerError):
    """The session's live state became non-finite, or its journal does not hold together."""

    default_code = "session_corrupted"
    public_message = "the session's state cannot be used"


class SessionQuarantined(ServerError):
    """The session's journal was found damaged. Nothing is appended to it; its bytes are kept."""

    default_code = "session_quarantined"
    public_message = "the session's journal is damaged: nothing is added to it, and what it holds is kept"


class SlowWeightsChanged(ServerError):
    """The slow weights are not those that the server started with."""

    default_code = "slow_weights_changed"
    public_message = "the slow weights are not those that the server started with"


class SnapshotCorrupt(ServerError):
    """A stored snapshot does not match its checksum or its layout."""

    default_code = "snapshot_corrupt"
    public_message = "a stored snapshot is damaged"


class KeysUnavailable(ServerError):
    """The key file cannot be read, so nobody is let in."""

    status = 503
    retry = True
    default_code = "keys_unavailable"
    public_message = "the server cannot read its keys"
    default_retry_after_s = 2.0


class TurnTimeout(ServerError):
    """The turn took longer than a turn may. What was sent of it, or committed, stays learned."""

    status = 504
    default_code = "turn_timeout"
    public_message = "the turn took longer than a turn may; what was sent of it stays learned"


class TooManyConnections(ServerError):
    """As many connections are open as the server holds."""

    status = 503
    retry = True
    default_code = "too_many_connections"
    public_message = "as many connections are open as the server holds"
    default_retry_after_s = 1.0


class EncryptionKeyMissing(ServerError):
    """A stored value was sealed with a key that this server does not have."""

    status = 503
    default_code = "encryption_key_missing"
    public_message = "the server lacks the key that this session's values were sealed with"


class ShuttingDown(ServerError):
    """The server finishes what it has and admits nothing new."""

    status = 503
    retry = True
    default_code = "shutting_down"
    public_message = "the server is shutting down and admits no new work"
    default_retry_after_s = 2.0


class StoreUnavailable(ServerError):
    """The session store does not answer, so nothing can be acknowledged."""

    status = 503
    retry = True
    default_code = "store_unavailable"
    public_message = "the session store does not answer"
    default_retry_after_s = 1.0


class StartupError(HopeError):
    """The process cannot start. `param` names the setting to change."""

    default_code = "startup_error"


class ChatTemplateError(StartupError):
    """The checkpoint's chat template is none, takes too much, or does not extend from turn to turn."""

    default_code = "chat_template_error"


class StoreConfigError(StartupError):
    """The store cannot hold sessions safely as it is configured: at the start, or changed since."""

    status = 503
    default_code = "store_config_error"
    public_message = "the session store cannot hold sessions safely"
