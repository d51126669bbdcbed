"""Bits per byte of held-out text: Hope beside a Transformer trained on the same tokens."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from hope_model.errors import ConfigError, TrainError
from hope_model.evaluate.stream import read_losses
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.objective import TransformerObjective
from hope_model.train.resume import load_weights
from hope_model.train.settings import TRANSFORMER_PREFIX
from hope_model.train.transformer import Transformer


@torch.no_grad()
def hope_bits(model: Hope, tokenizer: Tokenizer, ids: Sequence[int], run: int = 512) -> float:
    """Bits per byte of ``ids[1:]``, read as one session from its first token."""
    losses, _ = read_losses(model, torch.tensor([list(ids)]), model.initial_state(1), run)
    return _bits(float(losses.sum()), tokenizer, ids)


@torch.no_grad()
def transformer_bits(model: Transformer, tokenizer: Tokenizer, ids: Sequence[int], window: int) -> float:
    """Bits per byte of ``ids[1:]``; each token sees between half a window and a whole one before it.

    Raises:
        ConfigError: ``window`` below 2.
    """
    if window < 2:
        raise ConfigError(f"window: expected at least 2 tokens, found {window}")
    nats, half = 0.0, window // 2
    for start in range(0, len(ids) - 1, half):
        first = max(0, start - half)
        part = torch.tensor([list(ids[first : start + half + 1])])
        logits = model(part[:, :-1])[0]
        judged = slice(start - first, None)
        nats += float(F.cross_entropy(logits[judged].float(), part[0, 1:][judged], reduction="sum"))
    return _bits(nats, tokenizer, ids)


def load_transformer(run: Path, name: str) -> Transformer:
    """The newest weights of a ``transformer-*`` training run.

    Raises:
        TrainError: no readable weights, or those of another model.
    """
    model = TransformerObjective(name).model
    try:
        model.load_state_dict(load_weights(run))
    except RuntimeError as error:
        raise TrainError(f"{run}: expected weights of {TRANSFORMER_PREFIX}{name}: {error}") from error
    return model.requires_grad_(False).eval()


def _bits(nats: float, tokenizer: Tokenizer, ids: Sequence[int]) -> float:
    return nats / math.log(2) / len(tokenizer.decode_bytes(list(ids[1:])))
