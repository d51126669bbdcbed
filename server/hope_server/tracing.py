"""Spans of what a request goes through: a seam, with nothing behind it unless tracing is asked for.

A span has names, ids and numbers; never what a user or a model wrote, and of an error its code alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

Value = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Value]
NONE: Attributes = {}


class Span(Protocol):
    """Something that takes time, perhaps part of another. Used from one task at a time."""

    @property
    def trace_id(self) -> str:
        """32 hex digits, for the log; empty if the trace is not recorded."""
        ...

    def child(self, name: str, attributes: Attributes = NONE) -> Span:
        """A part that begins now."""
        ...

    def rename(self, name: str) -> None:
        """What it is became known after its begin."""
        ...

    def set(self, attributes: Attributes) -> None:
        """What became known of it."""
        ...

    def end(self, error: str = "") -> None:
        """It is over. `error`: the code of what ended it early."""
        ...


class Tracing(Protocol):
    """Where requests' spans begin, and where finished ones go."""

    def request(self, headers: Mapping[str, str], attributes: Attributes) -> Span:
        """A request begins, in the trace that its headers (W3C traceparent) name, else in its own."""
        ...

    def close(self) -> None:
        """Hand over what is finished; blocks until that is done or has failed."""
        ...


class _NoSpan:
    """Nothing is recorded."""

    trace_id = ""

    def child(self, name: str, attributes: Attributes = NONE) -> Span:
        return self

    def rename(self, name: str) -> None: ...
    def set(self, attributes: Attributes) -> None: ...
    def end(self, error: str = "") -> None: ...


class _NoTracing:
    """Nothing is recorded."""

    def request(self, headers: Mapping[str, str], attributes: Attributes) -> Span:
        return NO_SPAN

    def close(self) -> None: ...


NO_SPAN: Span = _NoSpan()
NO_TRACING: Tracing = _NoTracing()


@contextmanager
def step(parent: Span, name: str, attributes: Attributes = NONE) -> Iterator[Span]:
    """A part of `parent`, from here to the end of the block."""
    span = parent.child(name, attributes)
    try:
        yield span
    except BaseException as error:
        span.end(error_type(error))
        raise
    span.end()


def error_type(error: BaseException) -> str:
    """The stable code of an error of ours, else the name of its class."""
    return str(getattr(error, "code", None) or type(error).__name__)
