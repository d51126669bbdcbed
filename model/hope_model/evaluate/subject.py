"""Finding and loading what is measured."""

from collections.abc import Callable
from pathlib import Path

import torch

from hope_kernels.quantized_linear import Bits
from hope_model.attention.checkpoint import FAMILY, AttentionCheckpoint, load_attention_checkpoint
from hope_model.checkpoint import family_of
from hope_model.errors import ConfigError
from hope_model.evaluate.conversation import ChatFormat, Render

Find = Callable[[str], Path]
"""From a model's name or folder to its folder; raises CheckpointError or ConversionError."""
RenderOf = Callable[[AttentionCheckpoint], Render]
"""From a checkpoint with a chat template to how it writes chats; the server has it."""


def is_attention(folder: Path) -> bool:
    """Whether the checkpoint is of family ``hope_attention``; raises CheckpointError."""
    return family_of(folder) == FAMILY


def load_talking(
    folder: Path,
    render_of: RenderOf | None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    quantize: Bits | None = None,
) -> tuple[AttentionCheckpoint, ChatFormat]:
    """A checkpoint of family ``hope_attention`` and how it talks.

    Raises:
        CheckpointError: it cannot be read.
        QuantizeError: it cannot be quantised so.
        ConfigError: it is of another family, or has no chat format.
    """
    if not is_attention(folder):
        raise ConfigError(
            f"model: expected one of family {FAMILY!r}, found family {family_of(folder)!r}, "
            "which has no window that facts could leave"
        )
    checkpoint = load_attention_checkpoint(folder, dtype=dtype, quantize=quantize)
    if checkpoint.chat_template is None:
        raise ConfigError(f"model: expected a chat template, found none in {checkpoint.model.config.name}")
    if render_of is None:
        raise ConfigError("chat format: expected the command `hope`, which knows it, found none")
    tokenizer = checkpoint.tokenizer
    return checkpoint, ChatFormat(tokenizer, render_of(checkpoint), tokenizer.eos_ids)
