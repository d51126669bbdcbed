"""From token ids to text as it may be shown: whole characters only, nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

DecodeBytes = Callable[[Sequence[int]], bytes]
"""The bytes that token ids stand for; special tokens stand for none."""


class TokenDecoder:
    """Incremental UTF-8: a character appears with the token that completes it.

    Bytes that cannot become a character appear as U+FFFD, once that is certain.
    """

    def __init__(self, decode_bytes: DecodeBytes) -> None:
        self._decode_bytes = decode_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes. A special token ends a pending character."""
        data = self._decode_bytes((token,))
        return self._utf8.decode(data) if data else self.flush()

    def pending(self) -> str:
        """What `flush` would return."""
        return self._utf8.getstate()[0].decode("utf-8", "replace")

    def flush(self) -> str:
        """The pending bytes as text; none are pending afterwards."""
        return self._utf8.decode(b"", final=True)


class AnswerText:
    """The text of one answer: cut before the first stop string, and released as soon as it is safe.

    Text that may be the beginning of a stop string is held back until the next token decides. The state
    depends on the tokens alone, so that two instances that saw the same tokens agree. The text of the first
    `min_tokens` tokens begins no stop string.
    """

    def __init__(
        self, decode_bytes: DecodeBytes, stop_strings: Sequence[str] = (), *, min_tokens: int = 0
    ) -> None:
        self._decoder = TokenDecoder(decode_bytes)
        self._unstoppable = min_tokens
        self._stops = tuple(stop_strings)
        self._longest = max(map(len, self._stops), default=0)
        self._text = ""
        self._released = 0
        self._from = 0
        self.stopped = False

    def feed(self, token: int) -> str:
        """Read one token; returns the text that can be released now. A no-op after a stop string."""
        if self.stopped:
            return ""
        self._append(self._decoder.feed(token))
        self._unstoppable -= 1
        return self._release(len(self._text) - (0 if self.stopped else self._held()))

    def finish(self) -> str:
        """The rest of the text: no more tokens come."""
        if not self.stopped:
            self._append(self._decoder.flush())
        return self._release(len(self._text))

    def so_far(self) -> str:
        """The whole text, if the answer ended here."""
        return self._text if self.stopped else self._text + self._decoder.pending()

    def _append(self, piece: str) -> None:
        if self._unstoppable > 0:
            self._text += piece
            self._from = len(self._text)
            return
        seen = max(self._from, len(self._text) - self._longest + 1)
        self._text += piece
        starts = [start for stop in self._stops if (start := self._text.find(stop, seen)) >= 0]
        if starts:
            self._text = self._text[: min(starts)]
            self.stopped = True

    def _held(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for length in range(min(self._longest - 1, len(self._text) - self._from), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stops):
                return length
        return 0

    def _release(self, end: int) -> str:
        start, self._released = self._released, max(end, self._released)
        return self._text[start : self._released]
