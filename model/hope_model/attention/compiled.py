"""Reading through a window's cache by the compiled kernel ``hope_kernels.cpu.reader``, where there is one.

It is equal to the layers of ``backbone`` to rounding, not to the bit: activations stay fp32 but for the
operands of products. A token's bits do not depend on the cut of its run, so that what is decoded can be read
again at once. Either way takes up the sessions that the other has stored; but that a journal leads to the
same bits holds on one of them, as it holds on one kind of processor.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.build import BuildError, load
from hope_kernels.cpu.frozen import FrozenWeights, Whole
from hope_kernels.cpu.reader import LayerTensors, Places, Reader, Rings
from hope_kernels.cpu.reader_layout import PROJECTIONS
from hope_kernels.dispatch import declare, give_up
from hope_kernels.frozen_linear import FrozenLinear
from hope_model.attention.backbone import Layer
from hope_model.attention.cache import WindowCache
from hope_model.attention.memory import Deltas

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

OPERATION = "hope_read"
"""The kernel's name in logs and metrics."""
MAX_DIVERGENCE = 0.05
"""Nats by which it may differ from the model's own layers; rounding makes 1e-3."""
MAX_ERROR = 1e-4
"""Of a product, by its greatest result."""
TRIED = 37
"""Tokens of a trial."""

_log = logging.getLogger(__name__)
declare(OPERATION)


def kernel_arena(dtype: torch.dtype, device: torch.device | None) -> Arena | None:
    """Where a model's weights are kept for the compiled kernel; None where it is not used."""
    if dtype is not torch.bfloat16 or (device is not None and device.type != "cpu"):
        return None
    try:
        load("attention")
        _try_products()
    except BuildError as error:
        give_up(OPERATION, error)
        return None
    return Arena()


def compiled_reader(model: "HopeAttention") -> Reader | None:
    """Of a model whose products the kernel keeps; None if it does not read as the model's own layers do."""
    reader = _reader(model)
    found = _divergence(model, reader)
    if not found < MAX_DIVERGENCE:
        give_up(OPERATION, BuildError(f"differs from the model's own layers by {found:.3g} nats"))
        return None
    _log.info("reading with the compiled kernel %s", OPERATION)
    return reader


def _try_products() -> None:
    """Raises BuildError if products come to something else than plain ones."""
    make = torch.Generator().manual_seed(0)
    x = torch.randn(19, 96, generator=make).bfloat16()
    values = torch.randint(-127, 128, (150, 96), generator=make, dtype=torch.int8)
    scales = torch.rand(150, generator=make)
    groups = torch.rand(2, 150, 3, generator=make).bfloat16()
    weights: dict[str, tuple[Tensor | Whole, Tensor]] = {
        "bf16": (values.bfloat16() / 64, values.float() / 64),
        "int8": (Whole(values, scales), values * scales[:, None]),
        "int4": (
            Whole(values & 15, groups[0], groups[1]),
            ((values & 15).float() - 8) * groups[0].float().repeat_interleave(32, 1)
            + groups[1].float().repeat_interleave(32, 1),
        ),
    }
    for kind, (weight, plain) in weights.items():
        expected = x.float() @ plain.mT
        found = FrozenWeights(weight, None, Arena()).product(x)
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < MAX_ERROR:
            raise BuildError(f"products of {kind} are off by {error:.3g}")


@torch.no_grad()
def _divergence(model: "HopeAttention", reader: Reader) -> float:
    """Mean nats between what the kernel and the layers say of some tokens; 0 where the layers say nothing
    finite.
    """
    make = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (1, TRIED), generator=make)
    deltas = {}
    for site in model.memory.sites:
        delta = torch.randn(1, *site.shape, generator=make)
        deltas[site.name] = (0.1 * model.weight_norms[site.level.name] * delta / delta.norm()).bfloat16()
    cache = model.new_cache(1)
    x = read_compiled(model, reader, cache, [0], tokens.tolist(), deltas, None)
    found, expected = (
        model.backbone.logits(each).log_softmax(-1) for each in (x, model.hidden(tokens, deltas))
    )
    if not bool(expected.isfinite().all()):
        return 0.0
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def _reader(model: "HopeAttention") -> Reader:
    backbone, config = model.backbone, model.config.backbone
    layers = []
    for index, layer in enumerate(backbone.layers):
        sites = {site.projection: site.name for site in model.memory.sites if site.layer == index}
        layers.append(
            LayerTensors(
                products={name: _kept(linear) for name, linear in products_of(layer).items()},
                gains={
                    "input_gain": layer.input_norm,
                    "mlp_gain": layer.mlp_norm,
                    "query_gain": layer.query_norm,
                    "key_gain": layer.key_norm,
                },
                subspaces={
                    projection: _kept(model.memory.geometry[name].subspace)
                    for projection, name in sites.items()
                },
                turns=index not in config.no_rope_layers,
            )
        )
    sizes = {
        "width": config.width,
        "depth": config.layers,
        "heads": config.heads,
        "groups": config.kv_heads,
        "head_width": config.head_width,
        "mlp": config.mlp_width,
        "first_adapted": model.config.first_adapted,
    }
    return Reader(layers, backbone.embedding, sizes=sizes, epsilon=config.norm_epsilon)


def read_compiled(
    model: "HopeAttention",
    reader: Reader,
    cache: WindowCache,
    rows: Sequence[int],
    runs: Sequence[Sequence[int]],
    deltas: Deltas | None,
    slots: Tensor | None,
) -> Tensor:
    """See :meth:`HopeAttention.read_runs`."""
    cache.reserve(max(cache.span([row], len(run)) for row, run in zip(rows, runs, strict=True)))
    own = None if deltas is None else [_dense(deltas[name]) for name in site_names(model)]
    memories = range(len(rows)) if slots is None else slots.tolist()
    if own is None:
        memories = [-1] * len(rows)
    elif slots is None and len(own[0]) == 1:
        memories = [0] * len(rows)
    stand = [cache.rows[row] for row in rows]
    spread = [index for index, run in enumerate(runs) for _ in run]
    places = Places(
        tokens=[token for run in runs for token in run],
        rows=[rows[index] for index in spread],
        positions=[
            row.read + place for row, run in zip(stand, runs, strict=True) for place in range(len(run))
        ],
        prefixes=[stand[index].prefix for index in spread],
        memories=[memories[index] for index in spread],
    )
    rings = Rings(cache.keys, cache.values, cache.hidden, cache.outputs, cache.capacity, cache.window)
    x = reader.read(places, rings, own, model.rotary.cosines, model.rotary.sines)
    for row, run in zip(stand, runs, strict=True):
        row.read += len(run)
    return x


def site_names(model: "HopeAttention") -> list[str]:
    """In the order in which the kernel counts sites."""
    order = {projection: number for number, projection in enumerate(PROJECTIONS)}
    sites = sorted(model.memory.sites, key=lambda site: (site.layer, order[site.projection]))
    return [site.name for site in sites]


def products_of(layer: Layer) -> dict[str, FrozenLinear]:
    """By the names that the kernels give them."""
    return {"qkv": layer.qkv, "output": layer.output, "gate_up": layer.gate_up, "down": layer.down}


def _kept(linear: FrozenLinear) -> FrozenWeights:
    assert linear.compiled is not None
    return linear.compiled


def _dense(delta: Tensor) -> Tensor:
    """One row of a delta that all share, else its rows side by side."""
    if len(delta) > 1 and delta.stride(0) == 0:
        return delta[:1].contiguous()
    return delta.contiguous()
