"""The ways to read a token of some rows, and which of them a machine has.

``compiled`` is one call of a kernel that this machine's compiler makes; ``torch`` needs none. Their results
are equal to rounding, not to the bit. With the first a row's bits do not depend on how its tokens are cut, so
it reads prompts too, and what it leaves at a boundary is the state there; with the second a boundary's state
comes from ``Hope.block_pass``. Either takes up what the other has stored; but that a journal leads to the
same bits holds on one path, as it holds on one kind of processor.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hope_kernels.cpu.build import BuildError
from hope_kernels.cpu.decoder import Behind
from hope_kernels.dispatch import declare, give_up
from hope_model.decoding.block import BlockRows
from hope_model.decoding.compiled_path import CompiledPath, fits
from hope_model.decoding.row import Row
from hope_model.decoding.torch_path import TorchPath
from hope_model.hope import Hope

OPERATION = "hope_decode"
"""The kernel's name in logs and metrics."""
MAX_DIVERGENCE = 0.01
"""Nats by which the compiled kernel may differ from the model's own step; rounding makes 1e-5."""

_log = logging.getLogger(__name__)
declare(OPERATION)


class Path(Protocol):
    """Reads and writes the slabs of blocks in place. A row's bits do not depend on who shares its step."""

    def step(
        self, rows: Sequence[int], tokens: Sequence[int], stand: Sequence[Row]
    ) -> tuple[Tensor, list[bool]]:
        """One token for each of ``rows`` (distinct, ascending), which stand where ``stand`` says: logits
        ``[B, vocab]``, and whether each row's writes of φ are finite.
        """
        ...

    def end_runs(self, ends: Sequence[Behind]) -> None:
        """The rows' matrix memories take up the tokens that they are behind."""
        ...

    def end_chunks(self, ends: Sequence[Behind]) -> list[bool]:
        """The rows' projections take up the tokens that they are behind, a run having ended before; whether
        all that a row writes is finite.
        """
        ...

    def pending(self, layer: int, row: int, chunk: int) -> Tensor:
        """A copy of one block's projections with the ``chunk`` tokens in them, ``[1, H, 2K + 2, K]``."""
        ...

    def sum_gradients(self, level: int, ends: Sequence[Behind]) -> None:
        """The rows' gradients of a level take up the tokens that they are behind."""
        ...

    def take_rows(self, rows: Sequence[int]) -> None:
        """Somebody else has written to all slabs of these rows."""
        ...

    def take_level(self, level: int, rows: Sequence[int]) -> None:
        """Somebody else has written to one level of these rows."""
        ...


PATHS: dict[str, Callable[[Hope, Sequence[BlockRows], torch.dtype | None], Path]] = {
    "compiled": CompiledPath,
    "torch": TorchPath,
}
"""By name; the dtype is that of the operands of slow products, None for the path's own choice."""


def fastest(
    model: Hope,
    blocks: Sequence[BlockRows],
    dtype: torch.dtype | None,
    divergence: Callable[[Path], float],
) -> Path:
    """The compiled path if the model fits it, this machine can make it and ``divergence``, which tries it, is
    small.
    """
    if not fits(model.config):
        _log.info("decoding %s by torch: it is too wide for the compiled kernel", model.config.name)
        return TorchPath(model, blocks, dtype)
    try:
        path = CompiledPath(model, blocks, dtype)
        found = divergence(path)
        if not found < MAX_DIVERGENCE:
            raise BuildError(f"differs from the model's own step by {found:.3g} nats")
    except BuildError as error:
        give_up(OPERATION, error)
        return TorchPath(model, blocks, dtype)
    _log.info("decoding with the compiled kernel %s", OPERATION)
    return path
