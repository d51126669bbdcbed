"""φ of one block, rule ``delta``, on rows; what its tokens write is saved up and added in runs.

Between two chunk ends the projections stand still, so their write is computed when the chunk ends, from
keys, values and rates that were kept (the chunk form of E9). The matrix memory is read together with the
``u_s`` and ``k_s`` of the last tokens, RUN at most, which it takes up then. So a token reads two matrices a
head and writes none.
"""

import torch
from torch import Tensor

from hope_kernels import delta_chunk_write
from hope_kernels.cpu.arena import Arena
from hope_model.config import HopeConfig
from hope_model.guards import bound_norm, finite_rows
from hope_model.rules.delta import MAX_NORM, DeltaRule
from hope_model.state import State

RUN = 16
"""Tokens that the matrix memory is behind at most."""


class PhiRows:
    """``rows`` states of ``rule``; see the module.

    MOVING: what tokens change, and runs that end with them.

    Args:
        rule: frozen, fp32.
        rows: how many.
        arena: where they are.
    """

    MOVING = ("window", "memory", "run_keys", "run_writes", "run_decay", "decay")

    def __init__(self, rule: DeltaRule, rows: int, arena: Arena) -> None:
        self.rule = rule
        config = rule.config
        heads, head, chunk = config.heads, config.head_width, config.chunk
        self.run = min(RUN, chunk)
        self.maps_initial = (rule.projections_initial + rule._identity()).detach()
        self._slow_rate = torch.sigmoid(rule.projection_rate).detach()[:, None]
        self._retention = torch.sigmoid(rule.projection_retention).detach().log()
        self.slabs: dict[str, Tensor] = {
            "window": arena.zeros(rows, config.conv_width - 1, config.width),
            "memory": arena.zeros(rows, heads, head, head),
            "maps": arena.zeros(rows, heads, 2 * head + 2, head),
            "pending": arena.zeros(rows, heads, 2 * head + 2, head),
            # Of a run: keys, writes u, and the logarithm of the decay since it began, after each token.
            "run_keys": arena.zeros(rows, heads, self.run, head),
            "run_writes": arena.zeros(rows, heads, self.run, head),
            "run_decay": arena.zeros(rows, heads, self.run),
            "decay": arena.zeros(rows, heads),
            # Of a chunk: keys, values and rates.
            "chunk_kept": arena.zeros(rows, chunk, heads, 2 * head + 1),
        }
        """Every tensor with a row axis."""
        self.slabs["maps"].copy_(self.maps_initial)
        self.slabs["run_decay"].fill_(float("inf"))

    @staticmethod
    def row_bytes(config: HopeConfig) -> int:
        """Of a row in all slabs."""
        heads, head, run = config.heads, config.head_width, min(RUN, config.chunk)
        matrices = head * head + 2 * (2 * head + 2) * head
        saved = run * (2 * head + 1) + 1 + config.chunk * (2 * head + 1)
        return 4 * ((config.conv_width - 1) * config.width + heads * (matrices + saved))

    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``)."""
        self.slabs["window"][row] = state["window"][0]
        self.slabs["memory"][row] = state["memory"][0]
        self.slabs["maps"][row] = self.maps_initial + state["projections"][0]
        self.slabs["pending"][row] = state["projections_next"][0]
        self._forget_run(row)

    def state(self, row: int, run: int, pending: Tensor) -> State:
        """A copy of the row, ``[1, ...]``, ``run`` tokens after the last ended; ``pending`` is part of it."""
        moved = self.moved(row, run)
        return {
            "memory": moved["memory"] if run else moved["memory"].clone(),
            "window": self.slabs["window"][row : row + 1].clone(),
            "projections": moved["projections"],
            "projections_next": pending,
        }

    def moved(self, row: int, run: int) -> State:
        """What a session's memories are, ``run`` tokens after the last run ended, ``[1, ...]``."""
        memory = self._memory_after(row, run) if run else self.slabs["memory"][row]
        return {"memory": memory[None], "projections": self.slabs["maps"][row : row + 1] - self.maps_initial}

    def end_run(self, row: int, run: int) -> None:
        """The matrix memory takes up the ``run`` tokens that it is behind."""
        self.slabs["memory"][row] = self._memory_after(row, run)
        self._forget_run(row)

    def end_chunk(self, row: int, chunk: int) -> Tensor:
        """The projections take up their chunk; whether their write was finite, a bool. A run ends before."""
        before = self.slabs["memory"][row]
        memory = bound_norm(before, MAX_NORM, axes=(-2, -1))
        self.slabs["memory"][row] = torch.where(finite_rows(memory)[:, None, None], memory, before)
        pending = bound_norm(self.pending_after(row, chunk)[0], MAX_NORM, axes=(-2, -1))
        finite = finite_rows(pending)
        self.slabs["pending"][row] = torch.where(finite[:, None, None], pending, self.slabs["pending"][row])
        self.slabs["maps"][row] = self.maps_initial + self.slabs["pending"][row]
        return finite.all()

    def _memory_after(self, row: int, run: int) -> Tensor:
        """``[H, K, K]`` with the run's tokens in it."""
        decay = self.slabs["decay"][row][:, None]
        weights = (decay - self.slabs["run_decay"][row, :, :run]).exp()[..., None]
        writes = self.slabs["run_writes"][row, :, :run] * weights
        old = decay.exp()[..., None] * self.slabs["memory"][row]
        return old + torch.matmul(writes.mT, self.slabs["run_keys"][row, :, :run])

    def pending_after(self, row: int, chunk: int) -> Tensor:
        """``[1, H, 2K + 2, K]`` with the chunk's tokens in it."""
        if not chunk:
            return self.slabs["pending"][row : row + 1].clone()
        head = self.rule.config.head_width
        kept = self.slabs["chunk_kept"][row, :chunk].transpose(0, 1)  # [H, T, 2K + 1]
        k, v, rate = kept.split((head, head, 1), dim=-1)
        slow = self._slow_rate[..., None] * rate
        present = self._retention[:, None].expand(-1, chunk)
        return delta_chunk_write(
            self.slabs["pending"][row : row + 1],
            self.rule.projections_initial,
            a=(-slow * k)[None],
            w=(-slow * torch.matmul(k - v, self.slabs["maps"][row].mT))[None],
            k=k[None],
            log_alpha=present[None],
        )

    def _forget_run(self, row: int) -> None:
        self.slabs["decay"][row] = 0.0
        self.slabs["run_decay"][row] = float("inf")
