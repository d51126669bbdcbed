"""Incremental decoder of Server-Sent Events, without input or output of its own."""

from hope_client.errors import ProtocolError

MAX_EVENT_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class SSEDecoder:
    """Turns bytes, cut anywhere, into the data of each event.

    Follows the WHATWG event stream: lines end in LF, CRLF or CR, a blank line ends an event, lines that
    start with a colon are comments, the data lines of one event are joined by LF. An event that the stream's
    end cuts off is dropped. Invalid UTF-8 and an event of more than `max_event_bytes` raise ProtocolError.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()  # the line that has not ended yet
        self._data: list[str] = []
        self._event_bytes = 0
        self._after_cr = False
        self._first_line = True

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that `chunk` completes, in order."""
        events: list[str] = []
        if self._after_cr and chunk:
            # The CR ended the line already; an LF right after it belongs to the same line end.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._pending += chunk
        lines = self._complete_lines() if b"\n" in chunk or b"\r" in chunk else []
        for line in lines:
            event = self._take_line(line)
            if event is not None:
                events.append(event)
        self._check_size(self._event_bytes + len(self._pending))
        return events

    def _complete_lines(self) -> list[bytes]:
        """Cut the complete lines off the pending bytes, which hold at least one line end."""
        lines = bytes(self._pending).splitlines(keepends=True)
        self._after_cr = lines[-1].endswith(b"\r")
        self._pending = bytearray() if lines[-1].endswith((b"\n", b"\r")) else bytearray(lines.pop())
        return [line.rstrip(b"\r\n") for line in lines]

    def _take_line(self, line: bytes) -> str | None:
        """Read one line; the event's data when the line ends one that has data."""
        if self._first_line:
            line = line.removeprefix(_BOM)
            self._first_line = False
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._event_bytes += len(line)
            self._check_size(self._event_bytes)
            self._data.append(_utf8(value.removeprefix(b" ")))
        return None

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise ProtocolError(f"expected events of at most {self._max_event_bytes} bytes, got a longer one")

    def _end_event(self) -> str | None:
        data, self._data, self._event_bytes = self._data, [], 0
        return "\n".join(data) if data else None


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"expected UTF-8 in the event stream: {error}") from None
