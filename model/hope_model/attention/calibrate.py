"""The geometry of a model's memory: subspaces and Fisher factors, from texts that the model writes itself.

No data comes with the code: the model answers some plain questions and goes on from some openings, and what
passes its projections meanwhile says which directions it uses and how much its predictions depend on them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention.config import GRID, BackboneConfig, HopeAttentionConfig, MemoryConfig, MemoryLevel
from hope_model.attention.memory import (
    CANARY_START,
    CANARY_TOKENS,
    TEXTS,
    TOKENS,
    Site,
    geometry_names,
    memory_shapes,
    sites_of,
)
from hope_model.attention.model import HopeAttention
from hope_model.attention.prompts import OPENINGS, QUESTIONS

ANSWER_TOKENS = 96
TEMPERATURE = 0.8
BATCH = 16
SEED = 20261124

Encode = Callable[[str], list[int]]


def default_memory(backbone: BackboneConfig) -> MemoryConfig:
    """The levels that were chosen by measurement (``model/LOG.md``), scaled to the model's depth and width.

    Twelve of SmolLM2's thirty layers are adapted; wider models get a smaller rank, so that the durable state
    stays below 1 MB. There are no more directions than features.
    """
    adapted = max(1, round(backbone.layers * 0.4))
    rank = max(1, min(32, backbone.mlp_width, 221_184 // (adapted * backbone.width)))
    level = MemoryLevel("cms-128", 128, backbone.layers - adapted, backbone.layers - 1, rank=rank)
    return MemoryConfig(levels=(level,))


def calibrate(
    backbone: BackboneConfig,
    weights: Mapping[str, Tensor],
    encode: Encode,
    progress: Callable[[float], None] = lambda _share: None,
    *,
    chat: Encode | None = None,
    memory: MemoryConfig | None = None,
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The memory's configuration and its constants for a checkpoint.

    Args:
        backbone, weights: the converted model.
        encode: text -> ids.
        progress: told the share that is done, 0 to 1.
        chat: a user's question -> ids of the conversation up to the opened answer; None for a base model.
        memory: another configuration than :func:`default_memory`.

    Returns:
        A mapping for ``config.json`` and tensors by name, fp32.
    """
    memory = memory or default_memory(backbone)
    config = HopeAttentionConfig("calibration", backbone, memory)
    model = HopeAttention(config, {**weights, **_blank(config)})
    prompts = [encode(text) for text in OPENINGS]
    prompts += [chat(text) if chat is not None else encode(f"{text}\n\n") for text in QUESTIONS]
    texts: list[list[int]] = []
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    generator = torch.Generator().manual_seed(SEED)
    for number, batch in enumerate(batches):
        texts += _write_on(model, [prompt[-memory.window :] or [0] for prompt in batch], generator)
        progress(0.7 * (number + 1) / len(batches))
    moments = _Moments(sites_of(config))
    for start in range(0, len(texts), BATCH):
        moments.add(model, texts[start : start + BATCH], generator)
        progress(min(1.0, 0.7 + 0.3 * (start + BATCH) / len(texts)))
    return asdict(memory), {**moments.geometry(), **_canary_texts(texts, prompts)}


@torch.inference_mode()
def _write_on(
    model: HopeAttention, prompts: Sequence[list[int]], generator: torch.Generator
) -> list[list[int]]:
    """Every prompt with a sampled continuation."""
    cache, rows = model.new_cache(len(prompts)), range(len(prompts))
    last = []
    for row, prompt in enumerate(prompts):
        for start in range(0, len(prompt), GRID):
            x = model.read(cache, [row], torch.tensor([prompt[start : start + GRID]]), None)
        last.append(x[:, -1:])
    texts, x = [list(prompt) for prompt in prompts], torch.cat(last)
    for _ in range(ANSWER_TOKENS):
        chances = (model.backbone.logits(x[:, -1]) / TEMPERATURE).softmax(-1)
        tokens = torch.multinomial(chances, 1, generator=generator)
        for text, token in zip(texts, tokens[:, 0].tolist(), strict=True):
            text.append(token)
        x = model.read(cache, rows, tokens, None)
    return texts


class _Moments:
    """Sums over tokens, per site: of ``x x^T`` of unit inputs and of plain ones, and of ``g g^T``."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._unit: dict[str, Tensor] = {}
        self._unit_mean: dict[str, Tensor] = {}
        self._plain: dict[str, Tensor] = {}
        self._slope: dict[str, Tensor] = {}
        self._tokens = 0

    def add(self, model: HopeAttention, texts: Sequence[list[int]], generator: torch.Generator) -> None:
        """Take in texts; the loss is that of tokens sampled from the model (the true Fisher matrix)."""
        longest = max(map(len, texts))
        tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        real = torch.tensor([[index < len(text) for index in range(longest)] for text in texts])
        inputs: dict[str, Tensor] = {}
        probes: dict[str, Tensor] = {}
        x = model.hidden(tokens, adapters=lambda layer: _probe(self._sites, layer, inputs, probes))
        logits = model.backbone.logits(x.detach())[real]
        sampled = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        x = model.backbone.final(x)[real]
        # The head keeps no transpose: its gradient is made here.
        slope = (logits.softmax(-1) - F.one_hot(sampled, logits.shape[-1])).to(x.dtype)
        slope = slope @ model.backbone.head_rows
        names = list(probes)
        slopes = torch.autograd.grad(x, [probes[name] for name in names], slope)
        for name, gradient in zip(names, slopes, strict=True):
            self._sum(name, inputs[name][real].float(), gradient[real].float())
        self._tokens += int(real.sum())

    def geometry(self) -> dict[str, Tensor]:
        """Subspace, input and output moment of every site."""
        constants: dict[str, Tensor] = {}
        for site in self._sites:
            name, count = site.name, self._tokens
            centre = self._unit_mean[name] / count
            spread = self._unit[name] / count - torch.outer(centre, centre)
            subspace = torch.linalg.eigh(spread.double()).eigenvectors.flip(1).T[: site.shape[0]].float()
            inputs = subspace @ (self._plain[name] / count) @ subspace.T
            values = (subspace.contiguous(), inputs, self._slope[name] / count)
            constants |= zip(geometry_names(site), values, strict=True)
        return constants

    def _sum(self, name: str, x: Tensor, gradient: Tensor) -> None:
        unit = F.normalize(x, dim=-1)
        for sums, value in (
            (self._unit, unit.T @ unit),
            (self._unit_mean, unit.sum(0)),
            (self._plain, x.T @ x),
            (self._slope, gradient.T @ gradient),
        ):
            sums[name] = sums[name] + value if name in sums else value


def _probe(
    sites: Sequence[Site], layer: int, inputs: dict[str, Tensor], probes: dict[str, Tensor]
) -> Callable[[str, Tensor], Tensor | None] | None:
    """Notes what enters the layer's sites and adds zeros there whose gradient can be asked for."""
    here = {site.projection: site for site in sites if site.layer == layer}
    if not here:
        return None

    def adapt(projection: str, x: Tensor) -> Tensor | None:
        site = here.get(projection)
        if site is None:
            return None
        inputs[site.name] = x.detach()
        probe = torch.zeros(*x.shape[:2], site.shape[1], dtype=x.dtype, requires_grad=True)
        probes[site.name] = probe
        return probe

    return adapt


def _canary_texts(texts: Sequence[list[int]], prompts: Sequence[list[int]]) -> dict[str, Tensor]:
    """Some of the answers, spread over the questions, judged from the token that opens them."""
    tokens = torch.full((TEXTS, TOKENS), -1, dtype=torch.int32)
    start = torch.zeros(TEXTS, dtype=torch.int32)
    first = len(OPENINGS)
    chosen = [first + number * (len(texts) - first) // TEXTS for number in range(TEXTS)]
    for row, number in enumerate(chosen):
        text = texts[number][:TOKENS]
        tokens[row, : len(text)] = torch.tensor(text, dtype=torch.int32)
        start[row] = max(0, min(len(prompts[number]), len(text)) - 1)
    return {CANARY_TOKENS: tokens, CANARY_START: start}


def _blank(config: HopeAttentionConfig) -> dict[str, Tensor]:
    """Constants of the right shapes for a model that has none yet."""
    return {CANARY_TOKENS: -torch.ones(TEXTS, TOKENS), CANARY_START: torch.zeros(TEXTS)} | {
        name: torch.eye(*shape) if len(shape) == 2 else torch.zeros(shape)
        for name, shape in memory_shapes(config).items()
        if not name.startswith("memory.canary")
    }
