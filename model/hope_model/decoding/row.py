"""What is known of a row beside its tensors."""

from dataclasses import dataclass

from torch import Tensor

from hope_model.streaks import Frozen


@dataclass(slots=True)
class Row:
    """What a row has read and counted, see ``hope_model.streaks``. run, chunk, kept: tokens that φ's run, its
    chunk and each CMS level's gradient are behind.
    """

    position: int
    writes: list[int]
    refused: list[int]
    streaks: list[int]
    run: int
    chunk: int
    kept: list[int]
    frozen: Frozen = Frozen.NO
    good: int = 0

    def copy(self) -> "Row":
        """One that changes by itself."""
        lists = (self.writes[:], self.refused[:], self.streaks[:])
        return Row(self.position, *lists, self.run, self.chunk, self.kept[:], self.frozen, self.good)


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A row taken out of its slabs: what :meth:`DecodeRows.unpark` puts back bit for bit."""

    row: Row
    tensors: tuple[Tensor, ...]
