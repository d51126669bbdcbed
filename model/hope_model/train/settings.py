"""Settings of a training run; saved with it, and compared when it is resumed."""

from dataclasses import asdict, dataclass
from typing import Any

from hope_model.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainSettings:
    """What a run does. Lengths are in tokens, steps in optimizer steps.

    Attributes:
        model: a name of ``hope_model.config.CONFIGS``, or ``transformer-`` and such a name for the reference
            Transformer of equal parameter count, width and depth.
        tokens: tokens to train on, over all processes.
        rows: lanes per process; state is carried along each of them.
        window: length of a window; gradients stop at its start.
        reset_probability: chance per lane and window that its state starts anew.
        precision: matrix products of slow weights in this type; ``auto`` measures which is faster.
        save_every: steps between two resumable checkpoints.
    """

    model: str = "hope-tiny"
    tokens: int = 12_000_000
    rows: int = 16
    window: int = 512
    reset_probability: float = 1 / 24
    learning_rate: float = 3e-3
    warmup: int = 100
    final_rate: float = 0.05
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: int = 1
    precision: str = "auto"
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("tokens", "rows", "window", "save_every"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a positive integer, found {getattr(self, name)!r}")
        for name in ("warmup", "seed"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected a whole number from 0, found {getattr(self, name)!r}")
        for name in ("learning_rate", "clip_norm", "reset_probability", "final_rate", "weight_decay"):
            if type(getattr(self, name)) not in (int, float):
                raise ConfigError(f"{name}: expected a number, found {getattr(self, name)!r}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected a positive number, found {getattr(self, name)!r}")
        for name in ("reset_probability", "final_rate", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a number from 0 to 1, found {getattr(self, name)!r}")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision: expected one of {PRECISIONS}, found {self.precision!r}")

    def steps(self, processes: int) -> int:
        """Optimizer steps until ``tokens`` are read by ``processes`` together."""
        return -(-self.tokens // (self.rows * self.window * processes))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
