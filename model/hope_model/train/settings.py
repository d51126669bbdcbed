"""Settings of a training run; saved with it, and compared when it is resumed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from hope_model.config import HopeConfig, get_config
from hope_model.errors import ConfigError
from hope_model.rules.options import parse_options

PRECISIONS = ("auto", "float32", "bfloat16")
LEVELS = ("config", "none")
TRANSFORMER_PREFIX = "transformer-"


@dataclass(frozen=True)
class TrainSettings:
    """What a run does. Lengths are in tokens, steps in optimizer steps.

    Attributes:
        model: a name of ``hope_model.config.CONFIGS``, or ``transformer-`` and such a name for the reference
            Transformer of equal parameter count, width and depth.
        rule: the φ rule instead of the configuration's own; empty keeps that.
        rule_options: settings of the rule, ``name=value`` with commas between.
        levels: ``none`` trains without CMS levels.
        parameters: count to reach, within 3%, by the width of the slow MLP; 0 keeps the width as it is.
        tokens: tokens to train on, over all processes.
        rows: lanes per process; state is carried along each of them.
        window: length of a window; gradients stop at its start.
        reset_probability: chance per lane and window that its state starts anew.
        precision: matrix products of slow weights in this type; ``auto`` measures which is faster.
        save_every: steps between two resumable checkpoints.
    """

    model: str = "hope-tiny"
    rule: str = ""
    rule_options: str = ""
    levels: str = "config"
    parameters: int = 0
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
        for name in ("warmup", "seed", "parameters"):
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
        for name, known in (("precision", PRECISIONS), ("levels", LEVELS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: expected one of {known}, found {getattr(self, name)!r}")
        for name in ("rule", "rule_options"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name}: expected a text, found {getattr(self, name)!r}")
        of_rules = ("rule", "rule_options", "levels", "parameters")
        changed = [name for name in of_rules if getattr(self, name) != getattr(TrainSettings, name)]
        if self.yardstick and changed:
            raise ConfigError(
                f"rule: expected none for the yardstick {self.model}, found {', '.join(changed)}"
            )

    @property
    def yardstick(self) -> bool:
        """Whether the reference Transformer is trained, which is not served."""
        return self.model.startswith(TRANSFORMER_PREFIX)

    def hope_config(self) -> HopeConfig:
        """The configuration to train: the named one with this run's rule, levels and count of parameters.

        Raises:
            ConfigError: an unknown name, rule or option, sizes that do not make a model of that rule, or a
            count that cannot be reached.
        """
        config = get_config(self.model)
        rule = self.rule or config.rule
        changes: dict[str, Any] = {
            "rule": rule,
            "name": f"{config.name}-{rule}" if self.rule else config.name,
        }
        if self.rule_options or rule != config.rule:
            changes["rule_options"] = parse_options(self.rule_options)
        if self.levels == "none":
            changes["levels"] = ()
        config = replace(config, **changes)
        from hope_model.matching import count_parameters, matched_to

        if self.parameters:
            return matched_to(config, self.parameters)
        count_parameters(config)  # only a model that is built knows whether its rule takes the options
        return config

    def steps(self, processes: int) -> int:
        """Optimizer steps until ``tokens`` are read by ``processes`` together."""
        return -(-self.tokens // (self.rows * self.window * processes))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
