"""What the trainer minimises: next-token cross-entropy of a model that may carry state."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_model.config import HopeConfig, get_config
from hope_model.errors import ConfigError
from hope_model.guards import asks_cheaply
from hope_model.hope import Hope
from hope_model.state import State, detach
from hope_model.train.settings import TRANSFORMER_PREFIX, TrainSettings
from hope_model.train.transformer import Transformer, matched_to


class Objective(ABC):
    """A model and the way it reads a window."""

    model: nn.Module

    @abstractmethod
    def initial_state(self, rows: int) -> State:
        """The carried state of ``rows`` lanes that have read nothing."""

    @abstractmethod
    def loss(self, tokens: Tensor, resets: Tensor, state: State) -> tuple[Tensor, State]:
        """``tokens [B, T + 1]``, ``resets [B]`` -> (mean nats per token, state without its graph)."""

    def check_window(self, window: int, processes: int) -> None:  # noqa: B027  (any window will do)
        """Raises ConfigError for a window, in tokens, that the model cannot be trained on."""


class HopeObjective(Objective):
    """State flows from window to window; gradients stop between them (truncated back-propagation)."""

    def __init__(self, config: HopeConfig) -> None:
        self.model: Hope = Hope(config)
        self._phase_period = self.model.phase_period

    def initial_state(self, rows: int) -> State:
        return self.model.initial_state(rows)

    def check_window(self, window: int, processes: int) -> None:
        slowest = max((level.period for level in self.model.config.levels), default=0)
        if window <= slowest:  # a write at a window's end has no reader that the gradient comes from
            raise ConfigError(
                f"window: expected more tokens than the slowest level's period of {slowest}, found {window}"
            )
        # Rows at several phases are read in turn: processes would call their shards differently often.
        if processes > 1 and window % self.model.phase_period:
            raise ConfigError(
                f"window: expected a multiple of {self.model.phase_period} tokens for several processes, "
                f"found {window}"
            )

    def loss(self, tokens: Tensor, resets: Tensor, state: State) -> tuple[Tensor, State]:
        read = tokens[:, :-1]
        # Rows begin, and are reset, at position 0: windows of whole periods find them all at phase 0.
        phase = None if read.shape[1] % self._phase_period else 0
        logits, state = self.model(read, reset_rows(state, resets), phase=phase)
        return cross_entropy(logits, tokens[:, 1:]), detach(state)


class TransformerObjective(Objective):
    """The yardstick: the same windows, no memory between them."""

    def __init__(self, name: str) -> None:
        config = get_config(name)
        parameters = sum(p.numel() for p in Hope(config).parameters())
        self.model: Transformer = Transformer(
            matched_to(
                parameters,
                layers=config.layers,
                width=config.width,
                heads=config.heads,
                vocab_size=config.vocab_size,
            )
        )

    def initial_state(self, rows: int) -> State:
        return {}

    def loss(self, tokens: Tensor, resets: Tensor, state: State) -> tuple[Tensor, State]:
        return cross_entropy(self.model(tokens[:, :-1]), tokens[:, 1:]), state


def objective_of(settings: TrainSettings) -> Objective:
    """The objective of a run; ConfigError for a model that cannot be built."""
    if settings.yardstick:
        return TransformerObjective(settings.model.removeprefix(TRANSFORMER_PREFIX))
    return HopeObjective(settings.hope_config())


def reset_rows(state: State, resets: Tensor) -> State:
    """Rows marked in ``resets [B]`` start from the initial state, which is zero everywhere."""
    if asks_cheaply(resets) and not bool(resets.any()):
        return state
    return {name: t.masked_fill(resets.view(-1, *(1,) * (t.dim() - 1)), 0) for name, t in state.items()}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token in fp32: ``logits [B, T, vocab]``, ``targets [B, T]`` -> scalar."""
    return F.cross_entropy(
        logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)), targets.flatten()
    )
