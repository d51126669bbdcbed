"""Whether this machine reads a session again with the same bits, however its tokens arrive.

A session that is loaded, forked or moved is read in other batches and cuts than at first. Where a kernel sums
in an order that depends on them, its state would be another one, and would rightly be refused as damaged.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hope_kernels.cpu.tangent import Column, Passes
from hope_kernels.frozen_linear import FrozenLinear
from hope_kernels.row_invariance import product_holds, served_attention_holds, served_linear_holds
from hope_model.attention.cache import WindowCache
from hope_model.attention.compiled import site_names
from hope_model.attention.compiled_tangent import column_of, random_question
from hope_model.attention.config import GRID
from hope_model.attention.model import HopeAttention

CUTS = [1, 7, 26]
"""Tokens of one row that share a launch."""


def unrepeatable_products(model: HopeAttention) -> list[str]:
    """Names and sizes of the served products whose rows know their company, with torch's threads of now."""
    found = [
        f"{name} {linear.columns}x{linear.rows}"
        for name, linear in _distinct(model)
        if not served_linear_holds(linear)
    ]
    device = model.backbone.device
    ranks = {(site.level.rank, site.shape[1]) for site in model.memory.sites}
    if device.type == "cuda":
        ranks.clear()  # read by a kernel, token by token
    found += [
        f"deltas {rank}x{outputs}" for rank, outputs in sorted(ranks) if not product_holds(rank, outputs)
    ]
    sizes = model.config.backbone
    spans = range(GRID, WindowCache.capacity_of(model.config) + 1, GRID)
    if not served_attention_holds(sizes.heads, sizes.kv_heads, sizes.head_width, spans, device):
        found.append(f"attention {sizes.heads}x{sizes.head_width}")
    if model.reader is not None and not _reading_holds(model):
        found.append("compiled reading")
    if model.passes is not None and not _learning_holds(model, model.passes):
        found.append("compiled learning")
    return found


@torch.inference_mode()
def _reading_holds(model: HopeAttention) -> bool:
    """Of a launch: a run of tokens, alone and at once, against its parts beside runs of another row."""
    make = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2, sum(CUTS)), generator=make)
    cache, whole = model.new_cache(2), model.new_cache(1)
    others = tokens[0].split(CUTS[::-1])
    runs = [(a.tolist(), b.tolist()) for a, b in zip(others, tokens[1].split(CUTS), strict=True)]
    parts = [model.read_runs(cache, [0, 1], pair, None)[-len(pair[1]) :] for pair in runs]
    return torch.equal(torch.cat(parts), model.read(whole, [0], tokens[1:], None)[0])


@torch.no_grad()
def _learning_holds(model: HopeAttention, passes: Passes) -> bool:
    """Of a pass: a lesson beside a part of itself, against each of them alone."""
    asked = random_question(model)
    lessons = [asked.lesson, asked.lesson.only(slice(*CUTS[:2]))]
    columns = [column_of(lesson, asked.deltas, site_names(model)) for lesson in lessons]
    sites = range(len(model.memory.sites))

    def slopes(*some: Column) -> Tensor:
        return torch.cat(list(passes.tangent(some, lambda x: x, sites)[1].values()), 1)

    return torch.equal(slopes(*columns), torch.cat([slopes(column) for column in columns]))


def _distinct(model: HopeAttention) -> Iterator[tuple[str, FrozenLinear]]:
    """One product of each kind and size."""
    seen: set[tuple[type, int, int]] = set()
    for name, linear in _products(model):
        if (found := (type(linear), linear.rows, linear.columns)) not in seen:
            seen.add(found)
            yield name, linear


def _products(model: HopeAttention) -> Iterator[tuple[str, FrozenLinear]]:
    yield "head", model.backbone.head
    for layer in model.backbone.layers:
        yield from (
            ("qkv", layer.qkv),
            ("output", layer.output),
            ("gate_up", layer.gate_up),
            ("down", layer.down),
        )
    yield from (("subspace", geometry.subspace) for geometry in model.memory.geometry.values())
