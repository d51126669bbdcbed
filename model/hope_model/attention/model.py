"""The Hope-Attention model: frozen backbone, memory sites and the layout of a session's durable state."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.reader import MOST_SEEN, Reader
from hope_kernels.cpu.tangent import Passes
from hope_kernels.quantized_linear import Bits
from hope_kernels.window_attention import window_attention
from hope_model.attention.backbone import Adapter, Backbone
from hope_model.attention.cache import WindowCache
from hope_model.attention.canary import Canary
from hope_model.attention.compiled import compiled_reader, kernel_arena, read_compiled
from hope_model.attention.compiled_tangent import compiled_outputs, compiled_passes
from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.memory import (
    CANARY_START,
    CANARY_TOKENS,
    Deltas,
    Geometry,
    Memory,
    Site,
    geometry_names,
    sites_of,
)
from hope_model.attention.quantize import require_quantizable
from hope_model.attention.rotary import Rotary, Turn, rotate
from hope_model.errors import QuantizeError
from hope_model.state import COUNTERS, LevelSpec, State, StateSpec, TensorSpec
from hope_model.streaks import counter_specs

Keys = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""``(layer, k, v [B, T, G, K])``, positions applied -> keys and values to look at, ``[B, G, S, K]``; or those
of a whole cache, and the rows ``[B]`` of it.
"""

Adapters = Callable[[int], Adapter | None]
"""What is added at a layer's projections, None for nothing."""


class HopeAttention:
    """Slow weights only; caches and deltas are passed in.

    Args:
        config: sizes, window and levels.
        weights: backbone tensors and geometry constants by name, as a checkpoint holds them.
        dtype: of weights and activations; a session's deltas are fp32 in any case.
        device: where they go; constants are computed before, so that they are the same on every one.
        quantize: how the backbone's products keep their weights; None as they are.
        compiled: whether the compiled kernels may read and learn where they can, which is bf16 on a CPU.

    Raises:
        QuantizeError: they cannot be quantised so.
    """

    def __init__(
        self,
        config: HopeAttentionConfig,
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | None = None,
        quantize: Bits | None = None,
        compiled: bool = True,
    ) -> None:
        self.config = config
        self.quantize = quantize
        arena = kernel_arena(dtype, device) if compiled else None
        own = {
            name: tensor.to(device=device, dtype=dtype)
            for name, tensor in weights.items()
            if not name.startswith("memory.")
        }
        if quantize is not None:
            embedding = own["model.embed_tokens.weight"]
            require_quantizable(config.backbone, quantize, embedding, compiled=arena is not None)
        try:
            self.backbone = Backbone(
                config.backbone,
                own,
                differentiable_from=config.first_adapted,
                quantize=quantize,
                arena=arena,
            )
        except ValueError as error:
            if quantize is None:
                raise
            raise QuantizeError(f"{quantize}: {error}") from error
        sites = sites_of(config)
        geometry = {site.name: _geometry(site, weights, dtype, self.backbone.device, arena) for site in sites}
        self.memory = Memory(sites, geometry)
        memory = config.memory
        self.rotary = Rotary(
            config.backbone, memory.prefix + memory.window + 2 * memory.block, self.backbone.device
        )
        self.state_spec = _spec(config)
        self.reader: Reader | None = None
        self.weight_norms = {
            level.name: float(
                torch.stack(
                    [
                        weights[f"model.layers.{site.layer}.mlp.{site.projection}.weight"].float().norm()
                        for site in sites
                        if site.level == level
                    ]
                ).norm()
            )
            for level in memory.levels
        }
        self.passes: Passes | None = None
        if arena is not None:
            self.reader = compiled_reader(self)
            if self.reader is not None:
                self.passes = compiled_passes(self, self.reader)
            if self.passes is not None:
                self.memory.by_kernel(arena)
        self._canary_tokens, self._canary_start = (
            weights[name].long() for name in (CANARY_TOKENS, CANARY_START)
        )
        texts = _canary_texts(weights)
        self.canaries = [Canary.of(self, text, start) for text, start in texts]
        halves = texts[: len(texts) // 2], texts[len(texts) // 2 :]
        self.panel = [Canary.panel(self, half) for half in halves if half]

    def frozen(self) -> Iterator[tuple[str, Tensor]]:
        """Every frozen tensor by name, as it is used. Of canaries their texts: what is computed of them
        differs between kinds of processors, which may take up each other's sessions.
        """
        yield from self.backbone.frozen()
        for name, geometry in self.memory.geometry.items():
            yield f"{name}.subspace", geometry.subspace.weight
            yield f"{name}.inputs", geometry.inputs
            yield f"{name}.outputs", geometry.outputs
        yield "canaries.tokens", self._canary_tokens
        yield "canaries.start", self._canary_start

    def initial_state(self, rows: int) -> State:
        """The durable state of ``rows`` sessions that have read nothing."""
        return self.state_spec.zeros(rows, device=self.backbone.device)

    def new_cache(self, rows: int, *, whole: bool = False) -> WindowCache:
        """Of ``rows`` rows that have read nothing; ``whole`` where the compiled kernel reads for long."""
        whole &= self.reads_together
        return WindowCache(self.config, rows, self.backbone.dtype, self.backbone.device, whole=whole)

    def forward(self, tokens: Tensor, deltas: Deltas | None = None, *, window: int | None = None) -> Tensor:
        """A whole text without cache or boundaries: ``tokens [B, T]`` int64 -> logits ``[B, T, vocab]``.

        Args:
            deltas: ``U [B, r, out]`` by site, in the weights' type.
            window: tokens that each one sees, itself included; None for all before it.
        """
        return self.backbone.logits(self.hidden(tokens, deltas, window=window))

    def hidden(
        self,
        tokens: Tensor,
        deltas: Deltas | None = None,
        *,
        window: int | None = None,
        adapters: Adapters | None = None,
    ) -> Tensor:
        """The last block's output of :meth:`forward`, ``[B, T, D]``; ``adapters`` stand in for the memory."""
        length = tokens.shape[1]
        rotary = self.rotary
        if length > len(rotary.cosines):
            rotary = Rotary(self.config.backbone, length, self.backbone.device)
        place = torch.arange(length, device=tokens.device)
        behind = place[:, None] - place
        seen = (behind >= 0) & (behind < (window or length))
        bias = torch.zeros(1, length, length, device=tokens.device).masked_fill_(~seen, -torch.inf)
        return self._layers(
            self.backbone.embed(tokens),
            0,
            rotary.at(place[None]),
            bias,
            lambda _, k, v: (k.transpose(1, 2), v.transpose(1, 2), None),
            adapters or self._reading(deltas),
        )

    def read(
        self,
        cache: WindowCache,
        rows: Sequence[int],
        tokens: Tensor,
        deltas: Deltas | None,
        *,
        slots: Tensor | None = None,
    ) -> Tensor:
        """Read ``tokens [B, T]`` into rows of a cache, in place; ``T`` is at most GRID.

        Args:
            rows: distinct, ascending.
            deltas: ``U [B, r, out]`` by site, in the weights' type; None where nothing was learned.
            slots: ``[B]``, the rows of the deltas; -1 for a row without any, where the compiled kernel reads;
                None if they are the batch's own.

        Returns:
            The last block's output ``[B, T, D]``.
        """
        if self.reads_together:
            x = self.read_runs(cache, rows, tokens.tolist(), deltas, slots=slots)
            return x.view(*tokens.shape, -1)
        count = tokens.shape[1]
        places = torch.stack([cache.slots(row, count) for row in rows]).to(tokens.device)
        before = torch.tensor([cache.rows[row].read for row in rows])
        positions = before[:, None] + torch.arange(count)
        cache.reserve(cache.span(rows, count))
        bias = cache.bias(rows, positions, before + count, cache.size)
        index = torch.tensor(list(rows), device=tokens.device)[:, None]
        first, last = rows[0], rows[-1] + 1
        view = last - first == len(rows) and not tokens.is_cuda  # a GPU's kernels find rows by themselves
        chosen = index[:, 0]

        def through_cache(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            keys, values = cache.keys[layer], cache.values[layer]
            keys[index, :, places] = k
            values[index, :, places] = v
            if view:
                return keys[first:last], values[first:last], None
            return keys, values, chosen

        turn = self.rotary.at(positions.to(tokens.device))
        low = self.config.first_adapted
        x = self._layers(self.backbone.embed(tokens), 0, turn, bias, through_cache, _no_adapter, end=low)
        cache.hidden[index, places] = x
        x = self._layers(x, low, turn, bias, through_cache, self._reading(deltas, slots))
        cache.outputs[index, places] = x
        for row in rows:
            cache.rows[row].read += count
        return x

    @property
    def reads_together(self) -> bool:
        """Whether :meth:`read_runs` can be had: by the compiled kernel."""
        return self.reader is not None and WindowCache.capacity_of(self.config) <= MOST_SEEN

    def read_runs(
        self,
        cache: WindowCache,
        rows: Sequence[int],
        runs: Sequence[Sequence[int]],
        deltas: Deltas | None,
        *,
        slots: Tensor | None = None,
    ) -> Tensor:
        """:meth:`read` of a run of 1 to GRID tokens for each of ``rows`` (distinct), in one pass over the
        weights. What a token becomes does not depend on who shares it.

        Returns:
            The last block's output, run after run, ``[N, D]``.
        """
        assert self.reader is not None
        return read_compiled(self, self.reader, cache, rows, runs, deltas, slots)

    def adapted(
        self,
        x: Tensor,
        positions: Tensor,
        bias: Tensor,
        keys: Sequence[tuple[Tensor, Tensor]],
        deltas: Deltas,
        *,
        adapters: Adapters | None = None,
    ) -> Tensor:
        """The adapted layers over fixed keys and values; ``adapters`` stand in for the memory.

        Args:
            x: inputs of the first adapted layer, ``[B, T, D]``.
            positions: ``[B, T]`` cache positions.
            bias: ``[B, T, S]``.
            keys: of each adapted layer, keys and values ``[B, G, S, K]``.

        Returns:
            The last block's output ``[B, T, D]``.
        """
        if self.passes is not None and adapters is None and not x.requires_grad:
            pairs = ((row, row) for row in range(len(x)))
            return compiled_outputs(self, self.passes, x, positions, bias, keys, deltas, pairs)
        low = self.config.first_adapted
        turn = self.rotary.at(positions)
        return self._layers(
            x,
            low,
            turn,
            bias,
            lambda layer, _k, _v: (*keys[layer - low], None),
            adapters or self._reading(deltas),
        )

    def adapted_by_each(
        self,
        x: Tensor,
        positions: Tensor,
        bias: Tensor,
        keys: Sequence[tuple[Tensor, Tensor]],
        deltas: Deltas,
    ) -> Tensor:
        """:meth:`adapted` of ``C`` rows with each of ``B`` memories: ``[B, C, T, D]``."""
        rows, memories = len(x), len(next(iter(deltas.values())))
        if self.passes is not None:
            pairs = ((row, memory) for memory in range(memories) for row in range(rows))
            outputs = compiled_outputs(self, self.passes, x, positions, bias, keys, deltas, pairs)
            return outputs.view(memories, *x.shape)

        def spread(one: Tensor) -> Tensor:
            return one.repeat(memories, *(1,) * (one.dim() - 1)) if memories > 1 else one

        held = [(spread(k), spread(v)) for k, v in keys]
        own = {name: delta.repeat_interleave(rows, dim=0) for name, delta in deltas.items()}
        return self.adapted(spread(x), spread(positions), spread(bias), held, own).view(memories, *x.shape)

    def drift(self, state: State) -> dict[str, Tensor]:
        """Per level, norm of the deltas over the norm of the weights that they change, ``[B]``."""
        return {
            level.name: torch.stack(
                [
                    state[f"{site.name}.delta"].flatten(1).norm(dim=1)
                    for site in self.memory.sites
                    if site.level == level
                ]
            ).norm(dim=0)
            / self.weight_norms[level.name]
            for level in self.config.memory.levels
        }

    def _layers(
        self,
        x: Tensor,
        start: int,
        turn: Turn,
        bias: Tensor,
        keys: Keys,
        adapters: Adapters,
        *,
        end: int | None = None,
    ) -> Tensor:
        bare = self.config.backbone.no_rope_layers

        heads, groups = self.config.backbone.heads, self.config.backbone.kv_heads
        scale = self.config.backbone.head_width**-0.5

        def attend(layer: int, qk: Tensor, v: Tensor) -> Tensor:
            if layer in bare:
                q, k = qk[:, :, :heads] * scale, qk[:, :, heads:]
            else:
                q, k = rotate(qk, turn).split((heads, groups), dim=2)
            held_keys, held_values, slots = keys(layer, k, v)
            mixed = window_attention(q.transpose(1, 2), held_keys, held_values, bias, slots)
            return mixed.transpose(1, 2).flatten(2)

        for layer in range(start, self.config.backbone.layers if end is None else end):
            x = self.backbone.layer(layer, x, attend, adapters(layer))
        return x

    def _reading(self, deltas: Deltas | None, slots: Tensor | None = None) -> Adapters:
        """What reads ``deltas`` at their sites."""
        if deltas is None:
            return _no_adapter

        def of_layer(layer: int) -> Adapter | None:
            if layer < self.config.first_adapted:
                return None
            return lambda projection, x: self.memory.read(layer, projection, x, deltas, slots)

        return of_layer


def _no_adapter(_layer: int) -> None:
    return None


def _canary_texts(weights: Mapping[str, Tensor]) -> list[tuple[list[int], int]]:
    """Token ids of each and the first position to judge."""
    rows, starts = weights[CANARY_TOKENS].tolist(), weights[CANARY_START].tolist()
    texts = [[int(token) for token in row if token >= 0] for row in rows]
    return [(text, int(start)) for text, start in zip(texts, starts, strict=True) if start < len(text)]


def _geometry(
    site: Site,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
    arena: Arena | None,
) -> Geometry:
    subspace, inputs, outputs = (weights[name].float() for name in geometry_names(site))
    return Geometry.of(subspace, inputs, outputs, dtype, device, arena)


def _spec(config: HopeAttentionConfig) -> StateSpec:
    memory = config.memory
    levels = tuple(LevelSpec(level.name, level.period) for level in memory.levels)
    tensors = [
        *counter_specs(len(levels)),
        TensorSpec("window", COUNTERS, (memory.window,), torch.int32),
        TensorSpec("window_teaches", COUNTERS, (memory.window,), torch.uint8),
        TensorSpec("prefix", COUNTERS, (memory.prefix,), torch.int32),
        TensorSpec("prefix_tokens", COUNTERS, (), torch.int64),
    ]
    for site in sites_of(config):
        tensors.append(TensorSpec(f"{site.name}.delta", site.level.name, site.shape))
    return StateSpec(tuple(tensors), (*levels, LevelSpec("slow", None)))
