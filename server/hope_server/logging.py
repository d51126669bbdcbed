"""One line per event on stderr: time, level, logger, ids of request and session, message; as text or JSON.

What a user or a model wrote is in no event; see SECURITY.md.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(slots=True)
class _Named:
    """Shared by the tasks of one request: what one of them finds out, all of them log."""

    trace_id: str
    session_id: str = "-"


request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the request being served, for the log."""

_named: ContextVar[_Named | None] = ContextVar("named", default=None)
_MADE_HERE = re.compile(r"[0-9a-f]{32}")

FORMAT = "%(asctime)s %(levelname)-7s %(name)s [%(request_id)s %(session_id)s] %(message)s"
OURS = ("hope", "hope_server", "hope_model", "hope_kernels")
FIELDS = (
    "request_id",
    "session_id",
    "trace_id",
    "method",
    "route",
    "status",
    "duration_s",
    "code",
)
"""What an event may carry beside its message; each is a key of a JSON event that has it."""


def begin_request(identity: str, *, trace_id: str = "") -> None:
    """Events from here on, and in tasks begun from here on, are those of the request `identity`."""
    request_id.set(identity)
    _named.set(_Named(trace_id or "-"))


def name_session(identity: str) -> None:
    """The request is about this session. A name that no server makes may be a caller's words: not logged."""
    named = _named.get()
    if named is not None and _MADE_HERE.fullmatch(identity):
        named.session_id = identity


def set_up(level: str, log_format: str) -> None:
    """Send the process's log to stderr. Other libraries log warnings only; the access log is ours.

    Args:
        level: Least severe events of ours.
        log_format: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _OneLine(FORMAT))
    handler.addFilter(_add_ids)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


def _add_ids(record: logging.LogRecord) -> bool:
    named = _named.get()
    record.request_id = request_id.get()
    record.session_id = "-" if named is None else named.session_id
    record.trace_id = "-" if named is None else named.trace_id
    return True


class _OneLine(logging.Formatter):
    """Control characters in a message (a path may hold them) cannot fake a second event."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class _Json(logging.Formatter):
    """An object a line. An id that there is none of is left out."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found = ((name, getattr(record, name, "-")) for name in FIELDS)
        event.update((name, value) for name, value in found if value != "-")
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)
