"""What a session is taught at the end of a period, taken from its cache."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hope_kernels.torch_threads import one_thread
from hope_model.attention.cache import WindowCache
from hope_model.attention.config import MemoryConfig
from hope_model.attention.tangent import Lesson

if TYPE_CHECKING:
    from hope_model.attention.model import HopeAttention

NOTHING, WORDS, TEXT = range(3)
"""How a token teaches: not at all, as somebody's words in a chat, as plain text."""


def teaching(origin: str, memory: MemoryConfig) -> int:
    """How a token of ``origin`` teaches."""
    if origin not in memory.teaches:
        return NOTHING
    return TEXT if origin == "text" else WORDS


def _teaches(recent: Sequence[tuple[int, int]], index: int) -> bool:
    """Whether a token is learned from what stands before it.

    The first word that somebody says is not. Little foretells it but the chat template, which opens the
    model's answers in much the same way: what all first words have in common would get into these.
    """
    own, before = recent[index][1], recent[index - 1][1]
    return own == TEXT or (own == WORDS and before != NOTHING)


@torch.no_grad()
@one_thread()
def gather_lesson(
    model: "HopeAttention", cache: WindowCache, row: int, recent: Sequence[tuple[int, int]], reach: int
) -> Lesson | None:
    """The lesson of the last ``reach`` tokens, copied, since the ring goes on.

    Args:
        recent: the last tokens, one more than ``reach`` where there is one, and how each teaches.

    Returns:
        None when none of them teaches.
    """
    read = cache.rows[row].read
    first = read - len(recent)
    taught = [index for index in range(max(1, len(recent) - reach), len(recent)) if _teaches(recent, index)]
    if not taught:
        return None
    text = all(recent[index][1] == TEXT for index in taught)
    positions = [first + index - 1 for index in taught]
    span = cache.span([row], 0)
    query = torch.tensor([positions])
    device = cache.hidden.device
    slots = torch.tensor([cache.slot_of(row, position) for position in positions], device=device)
    low = model.config.first_adapted
    return Lesson(
        hidden=cache.hidden[row : row + 1, slots].clone(),
        outputs=cache.outputs[row : row + 1, slots].clone(),
        positions=query.to(device),
        targets=torch.tensor([[recent[index][0] for index in taught]], device=device),
        bias=cache.bias([row], query, torch.tensor([read]), span),
        keys=[
            (keys[row : row + 1, :, :span].clone(), values[row : row + 1, :, :span].clone())
            for keys, values in zip(cache.keys[low:], cache.values[low:], strict=True)
        ],
        text=text,
    )
