"""φ rule ``hope``: self-modifying memories in full, each a matrix or a two-layer residual network (E45)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels.matrix_memory import ChunkMix, Erasure
from hope_model.config import HopeConfig
from hope_model.convolution import CausalConvolution
from hope_model.guards import full_precision, keep_rows, l2_normalize
from hope_model.rules.base import MemoryRule
from hope_model.rules.gradient import Gates, apart, kept_heads, settle
from hope_model.rules.gradient_memory import GradientMemory, MemoryForm
from hope_model.rules.heads import HeadOutput, split_heads
from hope_model.rules.options import Option
from hope_model.schedule import run_lengths
from hope_model.state import LevelSpec, State, TensorSpec

MEMORY, VECTORS, SCALARS = "memory.", "vectors.", "scalars."
"""Prefixes of the state of what answers queries, of what makes keys, values and queries, and of the gates."""


class HopeRule(MemoryRule):
    """Memories ``M_□``, ``□`` in memory, k, v, η, α and, if asked for, q; ``M(x) = x + W₁ gelu(W₂ x)``, or
    ``x + W x`` (without ``x`` for η and α):

    ``k_t = unit(M_k z_t)``, ``v_t = unit(M_v z_t)``, ``η_t``, ``α_t`` from ``M_η z_t``, ``M_α z_t``, all at
    the chunk's start ``s``; ``o_t = M_memory,t-1(q_t)``; every memory is pulled to a target of its own,
    ``v̂ = M_□,s(v_t)``:

    ``M_□,t = M_□,t-1 (α I - η_t k_t k_tᵀ) - η_t ∇ ½ |M_□,s(k_t) - v̂|²``, gradients through a momentum if
    asked for.

    Of a network the erasure acts on the matrix that meets the key. All but ``memory`` are read once a chunk.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "memory": Option("mlp", "what every memory is", ("mlp", "linear")),
        "expand": Option(1, "hidden width of the networks, in head widths"),
        "dgd": Option(True, "erasure along the key"),
        "momentum": Option(False, "gradients go through a momentum"),
        "retention": Option(True, "what was learned decays"),
        "inner_k": Option(True, "keys come from a memory, else from a projection"),
        "inner_v": Option(True, "values come from a memory, else from a projection"),
        "inner_q": Option(False, "queries come from a memory, else from a projection"),
    }

    def __init__(self, config: HopeConfig) -> None:
        super().__init__(config)
        width, heads, head = config.width, config.heads, config.head_width
        self.inputs = nn.Linear(width, width, bias=False)
        self.convolution = CausalConvolution(width, config.conv_width)
        self.inner = tuple(name for name in "kvq" if self.options[f"inner_{name}"])
        self.static = nn.ModuleDict(
            {name: nn.Linear(width, width, bias=False) for name in "kvq" if name not in self.inner}
        )
        hidden = int(self.options["expand"]) * head if self.options["memory"] == "mlp" else 0
        vector = MemoryForm(head, head, hidden=hidden, residual=True)
        momentum = bool(self.options["momentum"])
        self.memory = GradientMemory(heads, vector, momentum=momentum, copies=1)
        self.vectors = GradientMemory(heads, vector, momentum=momentum, scale=1.0, copies=len(self.inner))
        scalar = MemoryForm(head, 1, hidden=hidden)
        self.scalars = GradientMemory(heads, scalar, momentum=momentum, scale=0.1, copies=2)
        self.rate_bias = nn.Parameter(torch.zeros(heads))
        self.retention_bias = nn.Parameter(torch.linspace(3.0, 7.0, heads))
        self.projection_rate = nn.Parameter(torch.full((heads,), -1.0))
        self.projection_retention = nn.Parameter(torch.full((heads,), 6.0))
        self.momentum_bias = nn.Parameter(torch.zeros(heads)) if momentum else None
        self.output = HeadOutput(config, gated=True)

    @classmethod
    def levels(cls, config: HopeConfig) -> tuple[LevelSpec, ...]:
        return (LevelSpec("phi", 1), LevelSpec("projections", config.chunk))

    @property
    def phase_period(self) -> int:
        return self.config.chunk

    def spec(self) -> tuple[TensorSpec, ...]:
        window = TensorSpec("window", "phi", (self.config.conv_width - 1, self.config.width))
        return (*(spec for prefix, part, level in self._parts() for spec in part.spec(prefix, level)), window)

    def reference_norms(self) -> dict[str, Tensor]:
        vectors = self.vectors.initial_norm() if self.inner else torch.zeros_like(self.rate_bias[0])
        projections = torch.stack((vectors, self.scalars.initial_norm())).norm()
        return {"phi": self.memory.initial_norm(), "projections": projections}

    def drift_tensors(self) -> dict[str, tuple[str, ...]]:
        read_once = [
            f"{prefix}{layer}"
            for prefix, part, level in self._parts()
            if level != "phi"
            for layer in part.layers
        ]
        return {
            "phi": tuple(f"{MEMORY}{layer}_next" for layer in self.memory.layers),
            "projections": tuple(read_once),
        }

    def step(self, x: Tensor, state: State, position: Tensor) -> tuple[Tensor, State, dict[str, Tensor]]:
        x = x[:, None]
        inner, window = self.convolution(self.inputs(x), state["window"])
        read, after, wrote = self._part(self._static(inner), state)
        due = (position + 1) % self.config.chunk == 0
        settled = self._settle(after)
        after = {name: keep_rows(due, settled[name], tensor) for name, tensor in after.items()}
        applied = {"phi": wrote["phi"].long(), "projections": (wrote["projections"] & due).long()}
        return self.output(read, x)[:, 0], {**apart(after), "window": window}, applied

    def forward(self, x: Tensor, state: State, phase: int) -> tuple[Tensor, State, dict[str, Tensor]]:
        chunk, rows = self.config.chunk, x.shape[0]
        sizes = run_lengths(phase, x.shape[1], chunk)
        inner, window = self.convolution(self.inputs(x), state["window"])
        given = self._static(inner)
        cut = {name: term.split(sizes, dim=2) for name, term in given.items()}
        memory = {name: tensor for name, tensor in state.items() if name != "window"}
        applied = {
            level: torch.zeros(rows, dtype=torch.long, device=x.device) for level in ("phi", "projections")
        }
        reads, read_tokens = [], 0
        with full_precision(x):
            for index, size in enumerate(sizes):
                part = {name: terms[index] for name, terms in cut.items()}
                read, memory, wrote = self._part(part, memory)
                reads.append(read)
                read_tokens += size
                applied["phi"] = applied["phi"] + wrote["phi"].long() * size
                if (phase + read_tokens) % chunk == 0:
                    memory = self._settle(memory)
                    applied["projections"] = applied["projections"] + wrote["projections"].long()
        return self.output(torch.cat(reads, dim=2), x), {**apart(memory), "window": window}, applied

    def _parts(self) -> tuple[tuple[str, GradientMemory, str], ...]:
        """``(prefix, networks, level)``; without inner projections there are none for vectors."""
        vectors = ((VECTORS, self.vectors, "projections"),) if self.inner else ()
        return ((MEMORY, self.memory, "phi"), *vectors, (SCALARS, self.scalars, "projections"))

    def _static(self, inner: Tensor) -> dict[str, Tensor]:
        """What does not depend on memories: their input ``z`` and what static projections make of it."""
        kind, heads = self.rate_bias.dtype, self.config.heads
        made = {name: projection(inner).to(kind) for name, projection in self.static.items()}
        return {
            "z": split_heads(inner.to(kind), heads),
            **{name: l2_normalize(split_heads(term, heads)) for name, term in made.items()},
        }

    def _part(self, given: dict[str, Tensor], state: State) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Tokens of one chunk -> ``(read [B, H, T, K], state', rows written by level)``."""
        own = {prefix: part.by_head(_take(state, prefix)) for prefix, part, _ in self._parts()}
        weights = {prefix: part.at(own[prefix]) for prefix, part, _ in self._parts()}
        made = {name: term[:, None] for name, term in given.items()}  # beside the axis of copies
        if self.inner:
            vectors = l2_normalize(self.vectors.read(weights[VECTORS], made["z"]).output)
            made |= dict(zip(self.inner, vectors.split(1, dim=1), strict=True))
        gates, slow = self._gates(*self.scalars.read(weights[SCALARS], made["z"]).output[..., 0].unbind(1))
        meets = {"phi": self._meeting(gates, made["k"]), "projections": self._meeting(slow, made["k"])}
        keys_and_values = torch.cat((made["k"], made["v"]), dim=-2)
        after: State = {}
        wrote: dict[str, Tensor] = {}
        read = made["z"]
        for prefix, part, level in self._parts():
            rate, mix, erasure = meets[level]
            trace, target = part.read(weights[prefix], keys_and_values).halves()
            gradients = part.gradients(weights[prefix], trace, trace.output - target.output)
            writes = part.writes(own[prefix], mix, trace, gradients, rate, erasure)
            if prefix == MEMORY:
                read = part.read_within(own[prefix], writes, made["q"], strict=True)
            new, kept = kept_heads(part.after(writes, own[prefix]), own[prefix], part.spec("", ""))
            after |= {f"{prefix}{name}": tensor.flatten(1, 2) for name, tensor in new.items()}
            wrote[level] = wrote[level] & kept if level in wrote else kept
        return read[:, 0], after, wrote

    def _meeting(self, gates: Gates, k: Tensor) -> tuple[Tensor, ChunkMix, Erasure | None]:
        """Rates ``[B, 1, H, T]``, and how a level's writes under keys ``k [B, 1, H, T, K]`` are met."""
        rate, log_beta = gates.rate[:, None], gates.log_beta
        mix = ChunkMix(gates.log_alpha[:, None], None if log_beta is None else log_beta[:, None])
        return rate, mix, Erasure(mix, k, rate) if self.options["dgd"] else None

    def _gates(self, rate: Tensor, retention: Tensor) -> tuple[Gates, Gates]:
        """Of ``memory``, and of the others, from the two scalars ``[B, H, T]``."""
        highest = 2.0 / self.config.chunk
        rate = highest * torch.sigmoid(rate + self.rate_bias[:, None])
        kept = F.logsigmoid(retention + self.retention_bias[:, None])
        slow_kept = F.logsigmoid(self.projection_retention)[:, None].expand_as(kept)
        beta = (
            None if self.momentum_bias is None else F.logsigmoid(self.momentum_bias)[:, None].expand_as(kept)
        )
        if not self.options["retention"]:
            kept = slow_kept = torch.zeros_like(kept)
        slow_rate = rate * torch.sigmoid(self.projection_rate)[:, None]
        return Gates(rate, kept, beta), Gates(slow_rate, slow_kept, beta)

    def _settle(self, state: State) -> State:
        for prefix, part, _ in self._parts():
            state = settle(state, part.layers, prefix)
        return state


def _take(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
