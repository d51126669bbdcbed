"""What a session learns: low-rank deltas on MLP projections (E25), and the geometry of their writes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.moments import SiteProducts
from hope_kernels.low_rank_read import low_rank_product, low_rank_read
from hope_kernels.packed_linear import PackedLinear
from hope_kernels.torch_threads import one_thread
from hope_model.attention.config import BackboneConfig, HopeAttentionConfig, MemoryLevel

TEXTS, TOKENS = 8, 128
"""Canary texts of a checkpoint, and the longest one."""
MOMENTS = ("inputs", "outputs", "inputs_inverse", "outputs_inverse")
DAMPING = 0.3
"""Added to a Fisher factor's diagonal before it is inverted, in units of its mean."""


@dataclass(frozen=True)
class Geometry:
    """Shared constants of one site, from the calibration text.

    subspace: ``A [r, in]``, the principal directions of the projection's inputs. inputs: ``S [r, r]``, second
    moment of ``A x``. outputs: ``G [out, out]``, second moment of the loss gradient at the output. ``S`` and
    ``G`` are the Kronecker factors of the Fisher matrix of the delta (E26).
    """

    subspace: PackedLinear
    inputs: Tensor
    outputs: Tensor
    inputs_inverse: Tensor
    outputs_inverse: Tensor

    @classmethod
    def of(
        cls,
        subspace: Tensor,
        inputs: Tensor,
        outputs: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        arena: Arena | None = None,
    ) -> "Geometry":
        """From ``A``, ``S`` and ``G`` in fp32, to ``device``; products with ``A`` are in ``dtype``, by the
        compiled kernel with an ``arena``.
        """
        moments = (inputs, outputs, _damped_inverse(inputs), _damped_inverse(outputs))
        return cls(
            PackedLinear(subspace.to(device=device, dtype=dtype), backward=True, arena=arena),
            *(moment.to(device) for moment in moments),
        )


@dataclass(frozen=True)
class Site:
    """One adapted projection: ``name`` is that of its state tensor."""

    layer: int
    projection: str
    level: MemoryLevel
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        return f"layers.{self.layer}.{self.projection}"


Deltas = Mapping[str, Tensor]
"""``U [B, r, out]`` by site name."""


def sites_of(config: HopeAttentionConfig) -> tuple[Site, ...]:
    """Every site, layer by layer."""
    return tuple(
        Site(layer, projection, level, (level.rank, output_width(config.backbone, projection)))
        for layer in range(config.backbone.layers)
        for level in config.memory.levels
        if level.first_layer <= layer <= level.last_layer
        for projection in level.projections
    )


def input_width(config: BackboneConfig, projection: str) -> int:
    """Features that enter the projection."""
    return config.mlp_width if projection == "down_proj" else config.width


def output_width(config: BackboneConfig, projection: str) -> int:
    """Features that leave the projection."""
    return config.width if projection == "down_proj" else config.mlp_width


@dataclass(frozen=True)
class Stack:
    """Constants of the ``s`` sites of a level that are of one shape, side by side: products with all of them
    are one. inputs, inputs_inverse: ``[s, r, r]``. outputs, outputs_inverse: ``[s, out, out]``. compiled:
    what multiplies with these two by a kernel.
    """

    names: tuple[str, ...]
    level: MemoryLevel
    inputs: Tensor
    outputs: Tensor
    inputs_inverse: Tensor
    outputs_inverse: Tensor
    compiled: Mapping[str, SiteProducts] | None = None

    @classmethod
    def of(cls, sites: Sequence[Site], geometry: Mapping[str, Geometry]) -> "Stack":
        own = [geometry[site.name] for site in sites]
        inputs, outputs, first, second = (
            torch.stack([getattr(each, name) for each in own]) for name in MOMENTS
        )
        return cls(tuple(site.name for site in sites), sites[0].level, inputs, outputs, first, second)

    def views(self, geometry: Mapping[str, Geometry]) -> dict[str, Geometry]:
        """The sites' geometry, without moments of its own."""
        return {
            name: replace(geometry[name], **{moment: getattr(self, moment)[place] for moment in MOMENTS})
            for place, name in enumerate(self.names)
        }

    def by_kernel(self, arena: Arena) -> "Stack":
        """The same with products of outputs by the compiled kernel, moments in bf16."""
        names = ("outputs", "outputs_inverse")
        return replace(self, compiled={name: SiteProducts(getattr(self, name), arena) for name in names})

    def times(self, moment: str, x: Tensor) -> Tensor:
        """``x [s, n, out]`` times a moment of outputs."""
        if self.compiled is not None:
            return self.compiled[moment](x)
        return torch.bmm(x, getattr(self, moment))

    def squared_norms(self, deltas: Deltas) -> Tensor:
        """``U . (S U G)`` summed over the sites, ``[B]``."""
        own = torch.stack([deltas[name] for name in self.names])  # [s, B, r, out]
        pulled = self.times("outputs", own.flatten(1, 2)).view_as(own)
        return (own * torch.matmul(self.inputs[:, None], pulled)).sum((0, 2, 3))


class Memory:
    """The sites of a model with their geometry; deltas are passed in."""

    def __init__(self, sites: Sequence[Site], geometry: Mapping[str, Geometry]) -> None:
        self.sites = tuple(sites)
        kinds = dict.fromkeys((site.level, site.shape) for site in sites)
        alike = ([site for site in sites if (site.level, site.shape) == kind] for kind in kinds)
        self._stacks = [Stack.of(each, geometry) for each in alike]
        self.geometry = {name: own for stack in self._stacks for name, own in stack.views(geometry).items()}
        self._by_place = {(site.layer, site.projection): site.name for site in sites}

    def read(
        self, layer: int, projection: str, x: Tensor, deltas: Deltas, slots: Tensor | None = None
    ) -> Tensor | None:
        """What the memory adds (E25): ``x [B, T, in]``, deltas in its type -> ``(A x) U [B, T, out]``.

        With ``slots [B]`` these are the rows of the deltas, and several tokens are read with the bits of
        single ones; else the deltas are the batch's own.
        """
        name = self._by_place.get((layer, projection))
        if name is None or name not in deltas:
            return None
        coordinates = self.geometry[name].subspace(x)
        if slots is None:
            return low_rank_product(coordinates, deltas[name])
        rows, tokens = x.shape[:2]
        own = slots if tokens == 1 else slots.repeat_interleave(tokens)
        single = coordinates.reshape(rows * tokens, 1, -1)
        return low_rank_read(single, deltas[name], own).view(rows, tokens, -1)

    def by_kernel(self, arena: Arena) -> None:
        """From now on products with moments of outputs are the compiled kernel's. Raises BuildError."""
        self._stacks = [stack.by_kernel(arena) for stack in self._stacks]

    def squared_norm(self, deltas: Deltas, names: Collection[str]) -> Tensor:
        """``sum U . (S U G)``, about twice the change of the output distribution in nats: ``[B]``."""
        return torch.stack([stack.squared_norms(deltas) for stack in self.stacks(names)]).sum(0)

    def stacks(self, names: Collection[str]) -> list[Stack]:
        """Of some whole levels' sites."""
        own = [stack for stack in self._stacks if stack.names[0] in names]
        assert {name for stack in own for name in stack.names} == set(names)
        return own


def geometry_names(site: Site) -> tuple[str, str, str]:
    """Names of a site's three constants in a checkpoint."""
    stem = f"memory.{site.name}"
    return f"{stem}.subspace", f"{stem}.input_moment", f"{stem}.output_moment"


CANARY_TOKENS = "memory.canary.tokens"
"""``[TEXTS, TOKENS]`` token ids, -1 after a text's end."""
CANARY_START = "memory.canary.start"
"""``[TEXTS]`` first judged positions."""


def memory_shapes(config: HopeAttentionConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the constants that a checkpoint of ``config`` holds."""
    shapes: dict[str, tuple[int, ...]] = {CANARY_TOKENS: (TEXTS, TOKENS), CANARY_START: (TEXTS,)}
    for site in sites_of(config):
        rank, out = site.shape
        width = input_width(config.backbone, site.projection)
        shapes |= zip(geometry_names(site), ((rank, width), (rank, rank), (out, out)), strict=True)
    return shapes


def _damped_inverse(moment: Tensor) -> Tensor:
    damping = DAMPING * moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    # LAPACK's bits depend on the number of threads, and a session may move to a machine with others.
    with one_thread():
        inverse: Tensor = torch.linalg.inv(moment + damping * eye)
    return inverse
