"""What the client raises.

HopeClientError                     catch this one for everything below
├── InvalidRequestError             the arguments do not make a valid request; nothing was sent
├── APIError                        the server answered with an error: code, param, type
│   ├── APIStatusError              ... as a status of 400 or above: status, retry_after_s, request_id
│   │   ├── BadRequestError         400, 405, 413, 415, 422
│   │   ├── AuthenticationError     401, 403
│   │   ├── NotFoundError           404
│   │   ├── ConflictError           409
│   │   │   ├── SessionBusyError    session_busy: a turn of this session is running
│   │   │   │   └── LeaseHeldError  lease_held: ... on another server
│   │   │   ├── SessionFencedError  session_fenced: another server has taken the session over
│   │   │   ├── AlreadyLearned      already_learned: this request was learned before; first_seq, last_seq
│   │   │   └── ConversationDiverged  conversation_diverged: the history is not this session's
│   │   ├── RateLimitedError        429
│   │   └── ServerError             500 and above
│   │       └── UnavailableError    503
│   └── StreamError                 ... inside a stream that had begun
├── APIConnectionError              no answer, or an answer that broke off
│   └── APITimeoutError             ... in time
└── ProtocolError                   an answer that is not of this API
"""

from typing import ClassVar

from hope_client.wire import ErrorDetail


class HopeClientError(Exception):
    """Base of everything this package raises."""


class InvalidRequestError(HopeClientError, ValueError):
    """The arguments do not make a valid request. Nothing was sent."""


class APIConnectionError(HopeClientError):
    """No answer came, or it broke off. `sent` is False when the server cannot have seen the request."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class APITimeoutError(APIConnectionError):
    """No answer came within the timeout."""


class ProtocolError(HopeClientError):
    """The answer is not what this API promises: wrong server, wrong version, or a proxy in between."""


class APIError(HopeClientError):
    """The server answered with an error. `code` is stable, the message is for people."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(f"{detail.code or detail.type}: {detail.message}")
        self.detail = detail
        self.message = detail.message
        self.type = detail.type
        self.code = detail.code
        self.param = detail.param


class StreamError(APIError):
    """The server reported an error inside a stream that had begun."""


class APIStatusError(APIError):
    """The server answered with a status of 400 or above. `retry_after_s` in seconds, None when not given.

    `should_retry`: whether the server says that the same request may be sent again; None if it says nothing.
    """

    codes: ClassVar[frozenset[str]] = frozenset()
    statuses: ClassVar[frozenset[int]] = frozenset()

    def __init__(
        self,
        detail: ErrorDetail,
        *,
        status: int,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.should_retry = should_retry
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class BadRequestError(APIStatusError):
    """The server refused the request as it stands."""

    statuses = frozenset({400, 405, 413, 415, 422})


class AuthenticationError(APIStatusError):
    """The API key is missing, unknown or not allowed to do this."""

    statuses = frozenset({401, 403})


class NotFoundError(APIStatusError):
    """No such session, model or path."""

    statuses = frozenset({404})


class ConflictError(APIStatusError):
    """The request does not fit the session's present state."""

    statuses = frozenset({409})


class SessionBusyError(ConflictError):
    """Another turn of this session is running."""

    codes = frozenset({"session_busy"})


class LeaseHeldError(SessionBusyError):
    """A turn of this session is running on another server, or ran on one that died a moment ago."""

    codes = frozenset({"lease_held"})


class SessionFencedError(ConflictError):
    """Another server took the session over during the turn. What was committed before stays learned."""

    codes = frozenset({"session_fenced"})


class ConversationDiverged(ConflictError):
    """The messages sent are not a continuation of what the session has read."""

    codes = frozenset({"conversation_diverged"})


class AlreadyLearned(ConflictError):
    """An earlier attempt of this request was learned, so this one was not.

    Its tokens are the journal entries `first_seq` to `last_seq`, both included:

        client.sessions.events(session_id, after=error.first_seq - 1)
    """

    codes = frozenset({"already_learned"})

    @property
    def first_seq(self) -> int | None:
        """The first journal entry of the learned turn; None when the server did not say."""
        return self.detail.first_seq

    @property
    def last_seq(self) -> int | None:
        """The last journal entry of the learned turn; None when the server did not say."""
        return self.detail.last_seq


class RateLimitedError(APIStatusError):
    """Too many requests are waiting."""

    statuses = frozenset({429})


class ServerError(APIStatusError):
    """The server failed."""

    statuses = frozenset(range(500, 600))


class UnavailableError(ServerError):
    """The server, or the store behind it, does not take requests now."""

    statuses = frozenset({503})


# The most specific class comes first: a code, then a status, then a range of them.
_BY_PRECEDENCE: tuple[type[APIStatusError], ...] = (
    AlreadyLearned,
    ConversationDiverged,
    SessionBusyError,
    LeaseHeldError,
    SessionFencedError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
    ServerError,
)


def status_error_class(status: int, code: str | None) -> type[APIStatusError]:
    """The class for an error answer."""
    for cls in _BY_PRECEDENCE:
        if code in cls.codes or (not cls.codes and status in cls.statuses):
            return cls
    return APIStatusError
