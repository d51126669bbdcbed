"""Reading through a window's cache by the compiled kernel, ``hope_kernels.cpu.reader``, where a machine has it.

It is equal to the layers of ``backbone`` to rounding, not to the bit: activations stay fp32 but for the operands of
products. A token's bits do not depend on the cut of its run, so that what is decoded can be read again at once.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hope_kernels.cpu.arena import Arena
from hope_kernels.cpu.build import BuildError, load
from hope_kernels.cpu.frozen import FrozenWeights
from hope_kernels.cpu.reader import MOST_SEEN, LayerTensors, Places, Reader, Rings
from hope_kernels.cpu.reader_layout import PROJECTIONS
from hope_kernels.dispatch import declare, give_up
from hope_kernels.frozen_linear import FrozenLinear
from hope_model.attention.cache import WindowCache
from hope_model.attention.config import GRID
from hope_model.attention.memory import Deltas

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

OPERATION = "hope_read"
"""The kernel's name in logs and metrics."""

_log = logging.getLogger(__name__)
declare(OPERATION)


def kernel_arena(dtype: torch.dtype, device: torch.device | None) -> Arena | None:
    """Where a model's weights are kept for the compiled kernel; None where it is not used."""
    if dtype is not torch.bfloat16 or (device is not None and device.type != "cpu"):
        return None
    try:
        load("attention")
    except BuildError as error:
        give_up(OPERATION, error)
        return None
    _log.info("reading with the compiled kernel %s", OPERATION)
    return Arena()


def compiled_reader(model: "HopeAttention") -> Reader:
    """Of a model whose products the kernel keeps."""
    backbone, config = model.backbone, model.config.backbone
    layers = []
    for index, layer in enumerate(backbone.layers):
        sites = {site.projection: site.name for site in model.memory.sites if site.layer == index}
        layers.append(
            LayerTensors(
                products={
                    "qkv": _kept(layer.qkv),
                    "output": _kept(layer.output),
                    "gate_up": _kept(layer.gate_up),
                    "down": _kept(layer.down),
                },
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


def fits(cache: WindowCache) -> bool:
    """Whether a thread's stack has room for what a token sees."""
    return cache.capacity <= MOST_SEEN


def read_compiled(
    model: "HopeAttention",
    reader: Reader,
    cache: WindowCache,
    rows: Sequence[int],
    tokens: Tensor,
    deltas: Deltas | None,
    slots: Tensor | None,
) -> Tensor:
    """See :meth:`HopeAttention.read`."""
    count = tokens.shape[1]
    cache.reserve(cache.span(rows, count))
    own = None if deltas is None else [_dense(deltas[name]) for name in _site_names(model)]
    memories = range(len(rows)) if slots is None else slots.tolist()
    if own is None:
        memories = [-1] * len(rows)
    elif slots is None and len(own[0]) == 1:
        memories = [0] * len(rows)
    stand = [cache.rows[row] for row in rows]
    spread = [index for index in range(len(rows)) for _ in range(count)]
    places = Places(
        tokens=tokens.flatten().tolist(),
        rows=[rows[index] for index in spread],
        positions=[row.read + token for row in stand for token in range(count)],
        prefixes=[stand[index].prefix for index in spread],
        memories=[memories[index] for index in spread],
    )
    rings = Rings(cache.keys, cache.values, cache.hidden, cache.outputs, cache.capacity, cache.window)
    x = reader.read(places, rings, own, model.rotary.cosines, model.rotary.sines)
    for row in stand:
        row.read += count
    return x.view(len(rows), count, -1)


def _site_names(model: "HopeAttention") -> list[str]:
    """In the order in which the kernel counts sites."""
    order = {projection: number for number, projection in enumerate(PROJECTIONS)}
    sites = sorted(model.memory.sites, key=lambda site: (site.layer, order[site.projection]))
    return [site.name for site in sites]


def _kept(linear: FrozenLinear) -> FrozenWeights:
    assert linear.compiled is not None
    return linear.compiled


def _dense(delta: Tensor) -> Tensor:
    """One row of a delta that all share, else its rows side by side."""
    if len(delta) > 1 and delta.stride(0) == 0:
        return delta[:1].contiguous()
    return delta.contiguous()
