"""The model that is served: found or converted, loaded by its family, with its way of writing chats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hope_model.attention.checkpoint import (
    FAMILY,
    AttentionCheckpoint,
    attention_weights_sha256,
    load_attention_checkpoint,
)
from hope_model.attention.quantize import bits_of, require_unquantized
from hope_model.attention.repeatable import unrepeatable_products
from hope_model.checkpoint import HOST, SHIPPED, family_of, load_checkpoint, resolve, slow_weights_sha256
from hope_model.convert.convert import ensure_model
from hope_model.convert.package import known_models
from hope_model.convert.progress import console_progress
from hope_model.errors import CheckpointError, HopeModelError, QuantizeError
from hope_server.chat import ChatFormat, JinjaFormat, Message, NativeFormat, TextTokenizer, learn
from hope_server.chat.tools import tool_format_of
from hope_server.config import Quantize, flag, variable
from hope_server.engine.device import taking_memory
from hope_server.engine.runner import ServedModel
from hope_server.engine.threads import use_threads
from hope_server.errors import StartupError

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention
    from hope_model.convert.source import TurnTokens
    from hope_model.pretrained_tokenizer import PretrainedTokenizer


@dataclass(frozen=True)
class Served:
    """What a server needs of its model. digest: recomputes the hash of all that is frozen."""

    name: str
    model: ServedModel
    tokenizer: TextTokenizer
    chat_format: ChatFormat
    digest: Callable[[], str]


def load_served(
    name: str,
    *,
    learning: bool,
    threads: int,
    device: torch.device = HOST,
    quantize: Quantize = "none",
) -> Served:
    """Load a shipped or known model, or a checkpoint folder; a known one is converted on first use.

    threads: of torch, that it will be served with. device: where its weights go. quantize: how they are kept.

    Raises:
        StartupError: no such model, it cannot be fetched or read, it does not fit onto the device, it cannot
            be quantised so, or it cannot do without learning.
    """
    try:
        folder, bits = find_folder(name), bits_of(quantize)
        with taking_memory("its weights", "model"):
            if family_of(folder) == FAMILY:
                checkpoint = load_attention_checkpoint(folder, device=device, quantize=bits)
                _check_repeatable(checkpoint.model, threads)
                return _attention(checkpoint, learning=learning)
            require_unquantized(folder, bits)
            return _hope(folder, device, learning=learning)
    except QuantizeError as error:
        said = f"{flag('quantize')} ({variable('quantize')}): {error}"
        raise StartupError(said, param="quantize") from error
    except HopeModelError as error:
        raise StartupError(f"{flag('model')} ({variable('model')}): {error}", param="model") from error


def ask_in_template(
    template: str, tokenizer: PretrainedTokenizer, tokens: TurnTokens
) -> Callable[[str], list[int]]:
    """A question as the ids of a chat up to the opened answer; what the calibration asks with."""
    chat = _jinja(template, tokenizer, add_bos=tokens.add_bos)

    def ask(question: str) -> list[int]:
        parts = chat.render([Message("user", question)], after=None)
        return [token for part in parts for token in part.tokens]

    return ask


def find_folder(name: str) -> Path:
    """The folder of a model by its name, or a folder itself; a known model is converted on first use.

    Raises:
        CheckpointError: neither a known name nor a folder.
        ConversionError: a known model cannot be fetched or converted.
    """
    if name in known_models():
        with console_progress() as progress:
            return ensure_model(name, progress, chat=ask_in_template)
    try:
        return resolve(name)
    except CheckpointError as error:
        known = ", ".join((*known_models(), *SHIPPED))
        raise CheckpointError(f"expected a checkpoint folder or one of {known}, found {name!r}") from error


def chat_format(checkpoint: AttentionCheckpoint) -> JinjaFormat:
    """How a pre-trained checkpoint writes chats; raises CheckpointError for one without a chat template."""
    if checkpoint.chat_template is None:
        name = checkpoint.model.config.name
        raise CheckpointError(f"{name}: has no chat template, so it cannot be talked to")
    return _jinja(checkpoint.chat_template, checkpoint.tokenizer, add_bos=checkpoint.add_bos)


def _attention(checkpoint: AttentionCheckpoint, *, learning: bool) -> Served:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    return Served(
        model.config.name,
        model,
        tokenizer,
        chat_format(checkpoint),
        lambda: attention_weights_sha256(model, learn=learning),
    )


def _check_repeatable(model: HopeAttention, threads: int) -> None:
    """Raises StartupError if sessions would come to other bits when they are read again."""
    before = torch.get_num_threads()
    use_threads(threads)
    try:
        products = unrepeatable_products(model)
    finally:
        use_threads(before)
    if not products:
        return
    device = model.backbone.device
    found, remedy, setting = "this device's kernels", f"{flag('device')} cpu", "device"
    if device.type == "cpu":
        found, setting = f"with {threads} threads, this machine's kernels", "threads"
        fewer = "" if threads == 1 else f"{flag('threads')} 1, or "
        remedy = f"{fewer}ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment"
    raise StartupError(
        f"{found} sum a row in an order that depends on the rows beside it ({', '.join(products)}), so that "
        f"no session could be read again with the same bits: try {remedy}",
        param=setting,
    )


def _hope(folder: Path, device: torch.device, *, learning: bool) -> Served:
    model, tokenizer = load_checkpoint(folder, device=device)
    if not learning:
        raise StartupError(
            f"{flag('learn')} ({variable('learn')}): {model.config.name} reads with its memories, it cannot "
            "do without writing them",
            param="learn",
        )
    return Served(
        model.config.name, model, tokenizer, NativeFormat(tokenizer), lambda: slow_weights_sha256(model)
    )


def _jinja(template: str, tokenizer: PretrainedTokenizer, *, add_bos: bool) -> JinjaFormat:
    first_eos = min(tokenizer.eos_ids, default=None)
    learned = learn(
        template,
        bos_token=None if tokenizer.bos_id is None else tokenizer.added_text(tokenizer.bos_id),
        eos_token=None if first_eos is None else tokenizer.added_text(first_eos),
    )
    return JinjaFormat(learned, tokenizer, add_bos=add_bos, tools=tool_format_of(template), source=template)
