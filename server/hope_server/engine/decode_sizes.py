"""In what sizes a decode step is launched on a GPU, and which of them as graphs. Pure policy: no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

WARM_LAUNCHES = 2
"""Of a size before it is captured: kernels are compiled and tuned in them, which no capture can hold."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Rows ``first`` to ``first + rows`` of a step, filled up to ``size``."""

    first: int
    rows: int
    size: int


def candidate_sizes(most: int) -> tuple[int, ...]:
    """Powers of two below ``most``, and ``most``."""
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*sizes, most)


class DecodeSizes:
    """The sizes that a launch may have, ascending."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        assert self.sizes, "no size to launch"
        assert self.sizes == tuple(sorted(set(self.sizes))), f"expected ascending sizes, found {self.sizes}"
        assert self.sizes[0] > 0, f"expected sizes of at least 1, found {self.sizes}"

    def cut(self, rows: int) -> list[Launch]:
        """Those of a step of ``rows``: full ones of the largest size, the rest in the least that holds it."""
        most = self.sizes[-1]
        launches = [Launch(first, most, most) for first in range(0, rows - most + 1, most)]
        if rest := rows % most:
            size = next(size for size in self.sizes if size >= rest)
            launches.append(Launch(rows - rest, rest, size))
        return launches


class How(Enum):
    """A size's next launch: as Python runs it, the same and then captured, or as it was captured."""

    EAGER = "eager"
    CAPTURE = "capture"
    REPLAY = "replay"


class GraphPlan:
    """Which sizes are captured: each one that is used, after it is warm, as long as all graphs together take
    at most ``most_bytes``. After a failure nothing more is captured, and what was is used no more.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.over = False
        self._launched: dict[int, int] = {}
        self._graphs: dict[int, int] = {}
        self._too_large: set[int] = set()

    @property
    def bytes(self) -> int:
        """Of all graphs that are kept."""
        return sum(self._graphs.values())

    def next(self, size: int) -> How:
        """How to launch ``size``; counts it."""
        if self.over or size in self._too_large:
            return How.EAGER
        if size in self._graphs:
            return How.REPLAY
        launched = self._launched[size] = self._launched.get(size, 0) + 1
        return How.EAGER if launched <= WARM_LAUNCHES else How.CAPTURE

    def captured(self, size: int, taken: int) -> bool:
        """A graph of ``size`` took so many bytes; whether it may be kept."""
        if self.over or self.bytes + taken > self.most_bytes:
            self._too_large.add(size)
            return False
        self._graphs[size] = taken
        return True

    def failed(self) -> None:
        """A capture did not succeed."""
        self.over = True
        self._graphs.clear()

    def check_integrity(self) -> None:
        """Graphs take no more than they may, and none is kept after a failure."""
        assert self.bytes <= self.most_bytes, f"graphs take {self.bytes} bytes of {self.most_bytes}"
        assert not (self.over and self._graphs), "a graph is kept after a failure"
        assert not self._too_large & self._graphs.keys(), "a graph is both kept and too large"
