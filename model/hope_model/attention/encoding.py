"""The window of a boundary, encoded anew from its token ids beside decoding."""

from collections.abc import Sequence

import torch

from hope_model.attention.config import GRID
from hope_model.attention.memory import Deltas
from hope_model.attention.model import HopeAttention


class Encoding:
    """A cache that depends on the durable state of a boundary and the tokens after it, and on nothing else.

    The prefix and the window are read first, then what the session reads meanwhile, in runs of GRID tokens.

    Args:
        model: frozen.
        boundary: the session's position.
        prefix: pinned token ids.
        recent: the window's token ids, and how each teaches.
        deltas: the memory as it is at the boundary, ``[1, ...]``; None if nothing was learned.
    """

    def __init__(
        self,
        model: HopeAttention,
        boundary: int,
        prefix: Sequence[int],
        recent: Sequence[tuple[int, int]],
        deltas: Deltas | None,
    ) -> None:
        self._model, self._deltas = model, deltas
        self.boundary = boundary
        self.active_at = boundary + model.config.memory.delay
        self.recent = list(recent)
        self.cache = model.new_cache(1)
        self.cache.rows[0].prefix = len(prefix)
        self.window_done = False
        window = [*prefix, *(token for token, _ in recent)]
        self._parts = [window[start : start + GRID] for start in range(0, len(window), GRID)]
        self._window_parts = len(self._parts)
        self._later: list[int] = []

    @property
    def slices(self) -> int:
        """Runs that can be read now."""
        return len(self._parts)

    def offer(self, tokens: Sequence[int]) -> None:
        """The session has read ``tokens`` after the boundary."""
        self._later.extend(tokens)
        while len(self._later) >= GRID:
            self._parts.append(self._later[:GRID])
            del self._later[:GRID]

    @torch.inference_mode()
    def step(self) -> None:
        """Read one run; ``window_done`` becomes true with the last one of the window."""
        tokens = torch.tensor([self._parts.pop(0)], device=self._model.backbone.device)
        self._model.read(self.cache, [0], tokens, self._deltas)
        self._window_parts -= 1
        self.window_done = self._window_parts == 0
