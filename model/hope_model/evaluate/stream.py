"""Does a session that learns stay good on a long stream? Losses of three readers of the same text.

``carried`` has read the stream from its start. ``fresh`` is started anew a fixed number of tokens before each
stretch it is judged on. ``frozen`` has read from the start too, with the CMS levels never written. This file
reads with family ``hope``; ``attention_stream`` reads with ``hope_attention``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.config import MAX_SIZE
from hope_model.errors import DataError
from hope_model.hope import Hope
from hope_model.state import State


@dataclass(frozen=True)
class StreamSettings:
    """Lengths in tokens: the stream, where judging starts, a fresh session's lead, a run of the model.

    lead: None for no fresh sessions.
    """

    stream: int = 65_536
    judged_from: int = 32_768
    lead: int | None = 2_048
    run: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.judged_from < self.stream:
            raise DataError(f"stream lengths: expected 0 < judged_from < stream, found {self}")
        if self.lead is None:
            return
        if not 0 < self.lead <= self.judged_from:
            raise DataError(f"stream lengths: expected 0 < lead <= judged_from < stream, found {self}")
        if (
            self.lead % self.run
            or self.judged_from % self.run
            or (self.stream - self.judged_from) % self.lead
        ):
            raise DataError(
                f"stream lengths: expected whole runs and whole stretches of the lead, found {self}"
            )


@dataclass(frozen=True)
class StreamLosses:
    """Nats per token of one stream: ``carried, frozen [stream]``, ``fresh [stream - judged_from]``."""

    name: str
    carried: Tensor
    frozen: Tensor
    fresh: Tensor | None
    settings: StreamSettings

    def summary(self) -> dict[str, float]:
        """Means over the judged tokens, and the two differences that matter."""
        carried = float(self.carried[self.settings.judged_from :].mean())
        frozen = float(self.frozen[self.settings.judged_from :].mean())
        found = {
            "carried": carried,
            "frozen": frozen,
            "gain_of_learning": frozen - carried,
            "gain_of_learning_whole_stream": float((self.frozen - self.carried).mean()),
        }
        if self.fresh is not None:
            fresh = float(self.fresh.mean())
            found |= {"fresh": fresh, "carried_minus_fresh": carried - fresh}
        return found


def without_cms_writes(model: Hope) -> Hope:
    """The same slow weights with CMS levels whose period never ends: they stay as they were trained."""
    never = MAX_SIZE // model.config.block * model.config.block  # tokens; beyond every stream
    levels = tuple(replace(level, period=never) for level in model.config.levels)
    frozen = Hope(replace(model.config, levels=levels)).to(model.embedding.weight)
    frozen.load_state_dict(model.state_dict())
    return frozen.requires_grad_(False).eval()


@torch.no_grad()
def stream_losses(
    model: Hope, streams: Sequence[tuple[str, Sequence[int]]], settings: StreamSettings
) -> list[StreamLosses]:
    """Read every stream with each reader.

    Raises:
        DataError: a stream is shorter than ``settings.stream + 1`` tokens.
    """
    require_length(streams, settings)
    tokens = torch.tensor([list(ids[: settings.stream + 1]) for _, ids in streams])
    carried, _ = read_losses(model, tokens, model.initial_state(len(streams)), settings.run)
    still = without_cms_writes(model)
    frozen, _ = read_losses(still, tokens, still.initial_state(len(streams)), settings.run)
    fresh = None if settings.lead is None else _fresh_losses(model, tokens, settings, settings.lead)
    return [
        StreamLosses(name, carried[row], frozen[row], None if fresh is None else fresh[row], settings)
        for row, (name, _) in enumerate(streams)
    ]


def require_length(streams: Sequence[tuple[str, Sequence[int]]], settings: StreamSettings) -> None:
    """Raises DataError for a stream that is shorter than ``settings.stream + 1`` tokens."""
    for name, ids in streams:
        if len(ids) <= settings.stream:
            raise DataError(f"{name}: expected at least {settings.stream + 1} tokens, found {len(ids)}")


def read_losses(model: Hope, tokens: Tensor, state: State, run: int) -> tuple[Tensor, State]:
    """Nats per token of ``tokens[:, 1:]``, wherever they lie: ``[B, T + 1]`` -> (``[B, T]`` fp32 on the host,
    state after the last).
    """
    losses, device = [], next(iter(state.values())).device
    for start in range(0, tokens.shape[1] - 1, run):
        part = tokens[:, start : start + run + 1].to(device)
        logits, state = model(part[:, :-1], state)
        losses.append(F.cross_entropy(logits.flatten(0, 1).float(), part[:, 1:].flatten(), reduction="none"))
    return torch.cat([loss.view(tokens.shape[0], -1) for loss in losses], dim=1).cpu(), state


def _fresh_losses(model: Hope, tokens: Tensor, settings: StreamSettings, lead: int) -> Tensor:
    """Each stretch of ``lead`` tokens, read by a session that started ``lead`` tokens before it."""
    starts = range(settings.judged_from, settings.stream, lead)
    stretches = []
    for row in tokens:
        parts = torch.stack([row[start - lead : start + lead + 1] for start in starts])
        losses, _ = read_losses(model, parts, model.initial_state(len(parts)), settings.run)
        stretches.append(losses[:, lead:].flatten())
    return torch.stack(stretches)
