"""φ of one block, rule ``delta``, on rows; what its tokens write is saved up and added in runs.

Between two chunk ends the projections stand still, so their write is computed when the chunk ends, from
keys, values and rates that were kept (the chunk form of E9). The matrix memory is read together with the
``u_s`` and ``k_s`` of the last tokens, RUN at most, which it takes up then. So a token reads two matrices a
head and writes none.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels import delta_chunk_write
from hope_model.config import HopeConfig
from hope_model.decoding.weights import Joined, block_diagonal, rms, sigmoid, silu, unit
from hope_model.guards import bound_norm, finite_rows
from hope_model.rules.delta import MAX_NORM, MAX_RATE, DeltaRule
from hope_model.state import State

RUN = 16
"""Tokens that the matrix memory is behind at most."""


class PhiRows:
    """``rows`` states of ``rule``; see the module.

    Args:
        rule: frozen, fp32.
        rows: how many.
        dtype: of the operands of slow products.
    """

    def __init__(self, rule: DeltaRule, rows: int, dtype: torch.dtype) -> None:
        self.rule = rule
        config = rule.config
        heads, head, self._chunk = config.heads, config.head_width, config.chunk
        self.run = min(RUN, self._chunk)
        self._in_gate = Joined(rule.inputs, rule.gate, dtype=dtype)
        self._query = Joined(rule.query, dtype=dtype)
        self._output = Joined(rule.output, dtype=dtype)
        self._base = Joined(block_diagonal(rule.memory_initial), dtype=torch.float32)
        self._maps_initial = (rule.projections_initial + rule._identity()).detach()
        self._taps = rule.convolution.taps.detach()
        self._read_bias = torch.stack((rule.rate_bias, rule.retention_bias), dim=-1).detach()
        self._slow_rate = torch.sigmoid(rule.projection_rate).detach()[:, None]
        self._retention = torch.sigmoid(rule.projection_retention).detach().log()
        self._window = torch.zeros(rows, config.conv_width - 1, config.width)
        self._memory = torch.zeros(rows, heads, head, head)
        self._maps = self._maps_initial.repeat(rows, 1, 1, 1)
        self._pending = torch.zeros(rows, heads, 2 * head + 2, head)
        # Of a run: keys, writes u, and the logarithm of the decay since it began, after each token.
        self._run_keys = torch.zeros(rows, heads, self.run, head)
        self._run_writes = torch.zeros(rows, heads, self.run, head)
        self._run_decay = torch.full((rows, heads, self.run), float("inf"))
        self._decay = torch.zeros(rows, heads)
        # Of a chunk: keys, values and rates.
        self._chunk_kept = torch.zeros(rows, self._chunk, heads, 2 * head + 1)

    @staticmethod
    def row_bytes(config: HopeConfig) -> int:
        """Of a row in all slabs."""
        heads, head, run = config.heads, config.head_width, min(RUN, config.chunk)
        matrices = head * head + 2 * (2 * head + 2) * head
        saved = run * (2 * head + 1) + 1 + config.chunk * (2 * head + 1)
        return 4 * ((config.conv_width - 1) * config.width + heads * (matrices + saved))

    def load(self, row: int, state: State) -> None:
        """The row becomes ``state`` (``[1, ...]``)."""
        self._window[row] = state["window"][0]
        self._memory[row] = state["memory"][0]
        self._maps[row] = self._maps_initial + state["projections"][0]
        self._pending[row] = state["projections_next"][0]
        self._forget_run(row)

    def slabs(self) -> Iterator[Tensor]:
        """Every tensor with a row axis."""
        yield from (self._window, self._memory, self._maps, self._pending)
        yield from (self._run_keys, self._run_writes, self._run_decay, self._decay, self._chunk_kept)

    def state(self, row: int, run: int, chunk: int) -> State:
        """A copy of the row, ``[1, ...]``, ``run`` and ``chunk`` tokens after the last of each ended."""
        return {
            "memory": self._memory_after(row, run)[None] if run else self._memory[row : row + 1].clone(),
            "window": self._window[row : row + 1].clone(),
            "projections": self._maps[row : row + 1] - self._maps_initial,
            "projections_next": self._pending_after(row, chunk),
        }

    def step(
        self,
        x: Tensor,
        span: slice,
        active: Tensor,
        rows: Tensor,
        runs: Tensor,
        chunks: Tensor,
        learns: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One token of each row of ``span``; only ``active`` ones are written.

        Args:
            x: ``[N, D]`` normed input of the rows of ``span``.
            active: ``[B]`` places in ``span``; rows: the same in the slab.
            runs, chunks: ``[B]`` tokens since the last run and the last chunk ended.
            learns: ``[B]`` bool; of a row that does not, the token's write is left out.

        Returns:
            ``(y [N, D], wrote [B, H] bool)``: whether each head's write is finite; another is left out.
        """
        count, head = len(x), self.rule.config.head_width
        inner, gate = self._in_gate(x).split(self._in_gate.sizes, dim=-1)
        z = self._convolve(inner, span, active, rows)
        q = unit(self._heads(self._query(z)))
        made = self._per_row(self._heads(z)[:, :, None], self._maps[span])[:, :, 0]
        kv = unit(made[..., : 2 * head].unflatten(-1, (2, head)))
        k, v = kv.unbind(-2)
        gates = made[..., 2 * head :] + self._read_bias
        rate = MAX_RATE * sigmoid(gates[..., :1])
        log_alpha = F.logsigmoid(gates[..., 1])
        reads = torch.stack((q, rate * (v - 2 * k)), dim=2)  # [N, H, 2, K]
        found = self._read(reads, span)
        u = found[:, :, 1] + rate * (v - k)
        wrote = torch.isfinite(u.sum(-1) + log_alpha)
        kept = torch.cat((kv.flatten(-2), rate), dim=-1)[active]
        self._keep(u[active], kept, log_alpha[active], wrote[active] & learns[:, None], rows, runs, chunks)
        y = rms(found[:, :, 0] + q).view(count, -1) * self.rule.output_gain * silu(gate)
        return self._output(y), wrote[active]

    def end_run(self, row: int, run: int) -> None:
        """The matrix memory takes up the ``run`` tokens that it is behind."""
        self._memory[row] = self._memory_after(row, run)
        self._forget_run(row)

    def end_chunk(self, row: int, chunk: int) -> Tensor:
        """The projections take up their chunk; whether their write was finite, a bool. A run ends before."""
        memory = bound_norm(self._memory[row], MAX_NORM, axes=(-2, -1))
        self._memory[row] = torch.where(finite_rows(memory)[:, None, None], memory, self._memory[row])
        pending = bound_norm(self._pending_after(row, chunk)[0], MAX_NORM, axes=(-2, -1))
        finite = finite_rows(pending)
        self._pending[row] = torch.where(finite[:, None, None], pending, self._pending[row])
        self._maps[row] = self._maps_initial + self._pending[row]
        return finite.all()

    def _read(self, x: Tensor, span: slice) -> Tensor:
        """``M x`` of the rows as they stand: ``[N, H, 2, K]`` -> the same."""
        count, heads = x.shape[:2]
        initial = self._base(x.transpose(1, 2).reshape(2 * count, -1)).view(count, 2, heads, -1)
        decay = self._decay[span]
        old = self._per_row(x, self._memory[span])
        scores = self._per_row(x, self._run_keys[span])
        scores = scores * (decay[..., None] - self._run_decay[span]).exp()[:, :, None]
        recent = torch.bmm(scores.flatten(0, 1), self._run_writes[span].flatten(0, 1)).view_as(x)
        return initial.transpose(1, 2) + decay.exp()[..., None, None] * old + recent

    def _per_row(self, x: Tensor, matrices: Tensor) -> Tensor:
        """``x_i Mᵀ_i``: ``[N, H, T, K]`` and ``[N, H, V, K]`` -> ``[N, H, T, V]``."""
        y = torch.bmm(x.flatten(0, 1), matrices.flatten(0, 1).mT)
        return y.view(*x.shape[:3], matrices.shape[2])

    def _keep(
        self,
        u: Tensor,
        kept: Tensor,
        log_alpha: Tensor,
        wrote: Tensor,
        rows: Tensor,
        runs: Tensor,
        chunks: Tensor,
    ) -> None:
        """Save up what the active rows' tokens write; nothing of a head whose write is not finite."""
        kept = torch.where(wrote[..., None], kept, 0.0)
        decay = self._decay[rows] + torch.where(wrote, log_alpha, 0.0)
        self._decay[rows] = decay
        self._run_keys[rows, :, runs] = kept[..., : u.shape[-1]]
        self._run_writes[rows, :, runs] = torch.where(wrote[..., None], u, 0.0)
        self._run_decay[rows, :, runs] = decay
        self._chunk_kept[rows, chunks] = kept

    def _convolve(self, x: Tensor, span: slice, active: Tensor, rows: Tensor) -> Tensor:
        past = torch.cat((self._window[span], x[:, None]), dim=1)
        self._window[rows] = past[active, 1:]
        return silu((past * self._taps).sum(1))

    def _memory_after(self, row: int, run: int) -> Tensor:
        """``[H, K, K]`` with the run's tokens in it."""
        decay = self._decay[row][:, None]
        weights = (decay - self._run_decay[row, :, :run]).exp()[..., None]
        writes = self._run_writes[row, :, :run] * weights
        old = decay.exp()[..., None] * self._memory[row]
        return old + torch.matmul(writes.mT, self._run_keys[row, :, :run])

    def _pending_after(self, row: int, chunk: int) -> Tensor:
        """``[1, H, 2K + 2, K]`` with the chunk's tokens in it."""
        if not chunk:
            return self._pending[row : row + 1].clone()
        head = self.rule.config.head_width
        kept = self._chunk_kept[row, :chunk].transpose(0, 1)  # [H, T, 2K + 1]
        k, v, rate = kept.split((head, head, 1), dim=-1)
        slow = self._slow_rate[..., None] * rate
        present = self._retention[:, None].expand(-1, chunk)
        return delta_chunk_write(
            self._pending[row : row + 1],
            self.rule.projections_initial,
            a=(-slow * k)[None],
            w=(-slow * torch.matmul(k - v, self._maps[row].mT))[None],
            k=k[None],
            log_alpha=present[None],
        )

    def _forget_run(self, row: int) -> None:
        self._decay[row] = 0.0
        self._run_decay[row] = float("inf")

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.rule.config.heads, self.rule.config.head_width))
        return split
