"""How often a level really wrote: a count over the last tokens, never the configuration."""

from __future__ import annotations

from collections import deque


class FrequencyWindow:
    """Writes per token over the last H tokens that a level read, to within one of its GRAINS."""

    GRAINS = 1024

    def __init__(self, tokens: int) -> None:
        self._limit = tokens
        self._grain = tokens // self.GRAINS
        self._reports: deque[tuple[int, int]] = deque()
        self._tokens = 0
        self._writes = 0

    def add(self, tokens: int, writes: int) -> float:
        """Count one report; returns the frequency over the window that ends with it."""
        self._tokens += tokens
        self._writes += writes
        if self._reports and self._reports[-1][0] + tokens <= self._grain:
            last_tokens, last_writes = self._reports.pop()
            tokens, writes = last_tokens + tokens, last_writes + writes
        self._reports.append((tokens, writes))
        while self._tokens - self._reports[0][0] >= self._limit:
            old_tokens, old_writes = self._reports.popleft()
            self._tokens -= old_tokens
            self._writes -= old_writes
        return self._writes / self._tokens if self._tokens else 0.0
