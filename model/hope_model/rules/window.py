"""Softmax attention over a session's last tokens, whose keys and values are state (E37)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.config import HopeConfig
from hope_model.errors import ConfigError
from hope_model.guards import full_precision
from hope_model.rules.heads import join_heads, split_heads
from hope_model.rules.rotary import Rotary
from hope_model.state import State, TensorSpec

SEGMENT = 256
"""Tokens of one state tensor: a snapshot stores a tensor whose bytes stayed the same only once."""


class WindowAttention(nn.Module):
    """Causal attention of a token over itself and the ``capacity - 1`` tokens before it.

    Keys, turned by their position, and values are kept in a ring: token ``p`` is at place
    ``p mod capacity``. A session that has read more than ``capacity`` tokens forgets the oldest, as a
    sliding window does; it never fails for want of room. A pair that is not finite is stored as zeros and
    counted as refused.
    """

    def __init__(self, config: HopeConfig, capacity: int) -> None:
        super().__init__()
        if capacity > SEGMENT and capacity % SEGMENT:
            raise ConfigError(
                f"rule_options: rule {config.rule!r} expected at most {SEGMENT} tokens or a multiple of it, "
                f"found {capacity}"
            )
        self.config, self.capacity = config, capacity
        self.rotary = Rotary(config)
        self.inputs = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def spec(self, level: str) -> tuple[TensorSpec, ...]:
        """Keys and values ``[tokens, D]`` in segments, and the count of tokens read."""
        segment = (min(self.capacity, SEGMENT), self.config.width)
        names = [f"{kind}-{n}" for kind in ("keys", "values") for n in range(self._segments)]
        return (*(TensorSpec(name, level, segment) for name in names), self.rotary.spec(level))

    def drift_tensors(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.spec("")[:-1])

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """``x [B, T, D]`` -> ``(y [B, T, D], state', [B] pairs stored)``; rows stand anywhere."""
        kind, seen, tokens = state["keys-0"].dtype, state["seen"], x.shape[1]
        q, k, v = (split_heads(part, self.config.heads) for part in self.inputs(x).to(kind).chunk(3, dim=-1))
        turn, after = self.rotary(seen, tokens, kind)
        q, k = turn(q), turn(k)
        keys, values = self._ring(state, "keys"), self._ring(state, "values")
        pairs, wrote = _finite_pairs(torch.stack((join_heads(k), join_heads(v))))
        with full_precision(x):
            y = self._attend(
                q, torch.cat((keys, pairs[0]), dim=1), torch.cat((values, pairs[1]), dim=1), seen
            )
        kept = {
            **self._store(keys, pairs[0], seen, "keys"),
            **self._store(values, pairs[1], seen, "values"),
            "seen": after,
        }
        out: Tensor = self.output(join_heads(y))
        return out, kept, wrote

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """``q [B, H, T, K]`` over ``keys, values [B, capacity + T, D]``, the ring first."""
        heads, tokens = self.config.heads, q.shape[2]
        own = seen[:, None] + torch.arange(tokens, device=seen.device)  # [B, T] positions
        held = torch.cat((self._positions(seen), own), dim=1)
        distance = own[:, :, None] - held[:, None, :]
        sees = (held[:, None, :] >= 0) & (distance >= 0) & (distance < self.capacity)
        y: Tensor = F.scaled_dot_product_attention(
            q, split_heads(keys, heads), split_heads(values, heads), attn_mask=sees[:, None]
        )
        return y

    def _positions(self, seen: Tensor) -> Tensor:
        """Which token each place of the ring holds, ``[B, capacity]``; negative for none."""
        last = seen[:, None] - 1
        places = torch.arange(self.capacity, device=seen.device)
        return last - (last - places) % self.capacity

    def _store(self, ring: Tensor, new: Tensor, seen: Tensor, kind: str) -> State:
        """The ring with the last of ``new [B, T, D]`` in place, cut into segments."""
        left_out = max(0, new.shape[1] - self.capacity)
        new = new[:, left_out:]
        places = (seen[:, None] + left_out + torch.arange(new.shape[1], device=seen.device)) % self.capacity
        ring = ring.scatter(1, places[:, :, None].expand_as(new), new)
        return {
            f"{kind}-{n}": part.clone(memory_format=torch.contiguous_format) if self._segments > 1 else part
            for n, part in enumerate(ring.chunk(self._segments, dim=1))
        }

    def _ring(self, state: State, kind: str) -> Tensor:
        return torch.cat([state[f"{kind}-{n}"] for n in range(self._segments)], dim=1)

    @property
    def _segments(self) -> int:
        return -(-self.capacity // SEGMENT)


def _finite_pairs(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """``[2, B, T, D]`` keys and values -> the same, zeros where either is not finite; ``[B]`` finite ones."""
    finite = torch.isfinite(pairs.detach()).all(-1).all(0)
    return torch.where(finite[..., None], pairs, torch.zeros_like(pairs)), finite.sum(1)
