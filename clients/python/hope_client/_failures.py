"""Read error answers and decide on retries, without input or output: both clients share this."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from hope_client import wire
from hope_client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    HopeClientError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    SessionBusyError,
    UnavailableError,
    status_error_class,
)

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 8.0
MAX_RETRY_AFTER_S = 120.0

# Failures of httpx that come before the first byte of the request is written.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

_SAID = {"true": True, "false": False}


def connection_error(failure: httpx.HTTPError) -> APIConnectionError:
    """The error for a request whose answer did not come, or broke off."""
    kind = APITimeoutError if isinstance(failure, httpx.TimeoutException) else APIConnectionError
    reason = str(failure) or type(failure).__name__
    error = kind(f"{_target(failure)}: {reason}", sent=not isinstance(failure, _UNSENT))
    error.__cause__ = failure
    return error


def _target(failure: httpx.HTTPError) -> str:
    try:
        request = failure.request
    except RuntimeError:  # httpx leaves the request out of failures below its client
        return "no connection"
    return f"{request.method} {request.url}"


def status_error(status: int, headers: Mapping[str, str], content: bytes, *, now_s: float) -> HopeClientError:
    """The error for an answer whose status is not a success."""
    if status < 400:
        return ProtocolError(f"expected a success or an error, got status {status}")
    detail = _detail(status, content)
    return status_error_class(status, detail.code)(
        detail,
        status=status,
        retry_after_s=retry_after_s(headers, now_s=now_s),
        request_id=headers.get(wire.REQUEST_ID_HEADER),
        should_retry=_SAID.get(headers.get("X-Should-Retry", "")),
    )


def _detail(status: int, content: bytes) -> wire.ErrorDetail:
    try:
        return wire.ErrorBody.model_validate_json(content).error
    except ValidationError:
        # A proxy in between answers in its own words; the status still says what happened.
        text = content[:200].decode(errors="replace").strip() or "no body"
        return wire.ErrorDetail(message=f"status {status}: {text}", type="http_error")


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Seconds to wait, from a Retry-After header in seconds or as an HTTP date; None without a valid one."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_s
        except ValueError:
            return None
    # NaN fails both comparisons.
    return max(seconds, 0.0) if seconds < float("inf") else None


@dataclass(slots=True)
class Retries:
    """The retries of one call. They never make the server learn a turn twice.

    What the server says of its answer, `X-Should-Retry`, counts. Where it says nothing, a repeatable call is
    sent again after any failure that may pass; another one only when the server cannot have begun it: no
    connection, session busy, queue full, not taking requests.
    """

    repeatable: bool
    left: int
    jitter: Callable[[], float] = random.random
    _next_delay_s: float = FIRST_DELAY_S

    def delay_s(self, error: HopeClientError) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        if self.left <= 0 or not self._may_repeat(error):
            return None
        self.left -= 1
        backoff_s = self._next_delay_s * (1.0 - 0.25 * self.jitter())
        self._next_delay_s = min(2 * self._next_delay_s, MAX_DELAY_S)
        asked_s = error.retry_after_s if isinstance(error, APIStatusError) else None
        if asked_s is None:
            return backoff_s
        return asked_s if asked_s <= MAX_RETRY_AFTER_S else None

    def _may_repeat(self, error: HopeClientError) -> bool:
        if isinstance(error, APIStatusError) and error.should_retry is not None:
            return error.should_retry
        if isinstance(error, SessionBusyError | RateLimitedError | UnavailableError):
            return True
        if isinstance(error, APIConnectionError):
            return self.repeatable or not error.sent
        return self.repeatable and (
            isinstance(error, ServerError) or (isinstance(error, APIStatusError) and error.status == 408)
        )
