"""The stream evaluation with family ``hope_attention``: a long text, read as a session is served."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention.model import HopeAttention
from hope_model.attention.rows import SessionRows
from hope_model.convert.progress import Progress, silent
from hope_model.evaluate.stream import StreamLosses, StreamSettings, require_length


def attention_stream_losses(
    model: HopeAttention,
    streams: Sequence[tuple[str, Sequence[int]]],
    settings: StreamSettings,
    *,
    origin: str = "text",
    text_start: Sequence[int] = (),
    progress: Progress = silent,
) -> list[StreamLosses]:
    """Read every stream with each reader, one stream after the other.

    Args:
        streams: names and token ids.
        origin: of these tokens: "text" as a completion's prompt, "user" as words in a chat.
        text_start: ids that come before every text; they are not judged.

    Raises:
        DataError: a stream is shorter than ``settings.stream + 1`` tokens.
    """
    require_length(streams, settings)
    learning, frozen = SessionRows(model, 1), SessionRows(model, 1, learn=False)
    results = []
    for name, ids in streams:
        ids = ids[: settings.stream + 1]
        progress(f"{name}: learning")
        carried = session_losses(learning, ids, origin, text_start)
        progress(f"{name}: frozen")
        still = session_losses(frozen, ids, origin, text_start)
        fresh = None
        if settings.lead is not None:
            progress(f"{name}: fresh")
            fresh = _fresh_losses(learning, ids, settings.lead, settings.judged_from, origin, text_start)
        results.append(StreamLosses(name, carried, still, fresh, settings))
    return results


def session_losses(
    rows: SessionRows, ids: Sequence[int], origin: str, text_start: Sequence[int] = ()
) -> Tensor:
    """Nats per token of ``ids[1:]`` in a new session of row 0, ``[len(ids) - 1]`` fp32.

    Each token is predicted before anything is learned from it.
    """
    return torch.cat(
        [
            F.cross_entropy(logits, targets, reduction="none").cpu()
            for logits, targets in session_logits(rows, ids, origin, text_start)
        ]
    )


def session_logits(
    rows: SessionRows, ids: Sequence[int], origin: str, text_start: Sequence[int] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """A new session of row 0 that reads ``ids``: parts of ``(logits [n, vocab], what came next [n])``."""
    rows.clear(0)
    if text_start:
        rows.read(0, text_start, ["template"] * len(text_start))
    at, last = 0, len(ids) - 1
    while at < last:
        end = min(at + rows.room(0), last)
        logits = rows.read_all(0, ids[at:end], [origin] * (end - at))
        yield logits, torch.tensor(ids[at + 1 : end + 1], device=logits.device)
        at = end


def _fresh_losses(
    rows: SessionRows,
    ids: Sequence[int],
    lead: int,
    judged_from: int,
    origin: str,
    text_start: Sequence[int],
) -> Tensor:
    """Each stretch of ``lead`` tokens, read by a session that started ``lead`` tokens before it."""
    stretches = []
    for start in range(judged_from, len(ids) - 1, lead):
        losses = session_losses(rows, ids[start - lead : start + lead + 1], origin, text_start)
        stretches.append(losses[lead:])
    return torch.cat(stretches)
