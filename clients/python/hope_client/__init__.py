"""Client library of Hope Serve: `Client`, `AsyncClient`, their errors, and `wire`, the API's definition."""

from hope_client import wire
from hope_client.aclient import AsyncClient, AsyncStream
from hope_client.client import Client, Stream
from hope_client.errors import (
    AlreadyLearned,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConversationDiverged,
    HopeClientError,
    InvalidRequestError,
    NotFoundError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SessionBusyError,
    StreamError,
    UnavailableError,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AlreadyLearned",
    "AsyncClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ConflictError",
    "ConversationDiverged",
    "HopeClientError",
    "InvalidRequestError",
    "NotFoundError",
    "ProtocolError",
    "RateLimitedError",
    "ServerError",
    "SessionBusyError",
    "Stream",
    "StreamError",
    "UnavailableError",
    "wire",
]
