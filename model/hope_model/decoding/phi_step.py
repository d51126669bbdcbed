"""One token of φ on rows, in torch's operations."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.decoding.phi import PhiRows
from hope_model.decoding.weights import Joined, block_diagonal, rms, sigmoid, silu, unit
from hope_model.rules.delta import MAX_RATE


class PhiStep:
    """Reads and writes the slabs of ``rows``; ``dtype``: of the operands of slow products."""

    def __init__(self, rows: PhiRows, dtype: torch.dtype) -> None:
        rule, self._slabs = rows.rule, rows.slabs
        self._count, self._head = rule.config.heads, rule.config.head_width
        self._in_gate = Joined(rule.inputs, rule.gate, dtype=dtype)
        self._query = Joined(rule.query, dtype=dtype)
        self._output = Joined(rule.output, dtype=dtype)
        self._base = Joined(block_diagonal(rule.memory_initial), dtype=torch.float32)
        self._taps = rule.convolution.taps.detach()
        self._gain = rule.output_gain.detach()
        self._read_bias = torch.stack((rule.rate_bias, rule.retention_bias), dim=-1).detach()

    def __call__(
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
        count, head = len(x), self._head
        inner, gate = self._in_gate(x).split(self._in_gate.sizes, dim=-1)
        z = self._convolve(inner, span, active, rows)
        q = unit(self._heads(self._query(z)))
        made = self._per_row(self._heads(z)[:, :, None], self._slabs["maps"][span])[:, :, 0]
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
        y = rms(found[:, :, 0] + q).view(count, -1) * self._gain * silu(gate)
        return self._output(y), wrote[active]

    def _read(self, x: Tensor, span: slice) -> Tensor:
        """``M x`` of the rows as they stand: ``[N, H, 2, K]`` -> the same."""
        count, heads = x.shape[:2]
        initial = self._base(x.transpose(1, 2).reshape(2 * count, -1)).view(count, 2, heads, -1)
        decay = self._slabs["decay"][span]
        old = self._per_row(x, self._slabs["memory"][span])
        scores = self._per_row(x, self._slabs["run_keys"][span])
        scores = scores * (decay[..., None] - self._slabs["run_decay"][span]).exp()[:, :, None]
        recent = torch.bmm(scores.flatten(0, 1), self._slabs["run_writes"][span].flatten(0, 1)).view_as(x)
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
        decay = self._slabs["decay"][rows] + torch.where(wrote, log_alpha, 0.0)
        self._slabs["decay"][rows] = decay
        self._slabs["run_keys"][rows, :, runs] = kept[..., : u.shape[-1]]
        self._slabs["run_writes"][rows, :, runs] = torch.where(wrote[..., None], u, 0.0)
        self._slabs["run_decay"][rows, :, runs] = decay
        self._slabs["chunk_kept"][rows, chunks] = kept

    def _convolve(self, x: Tensor, span: slice, active: Tensor, rows: Tensor) -> Tensor:
        past = torch.cat((self._slabs["window"][span], x[:, None]), dim=1)
        self._slabs["window"][rows] = past[active, 1:]
        return silu((past * self._taps).sum(1))

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self._count, self._head))
        return split
