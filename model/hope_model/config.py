"""Frozen, validated configurations; stored beside the weights."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hope_model.aggregations import AGGREGATIONS
from hope_model.errors import ConfigError
from hope_model.rules import RULES
from hope_model.write_rules import WRITE_RULES

MAX_SIZE = 1 << 24
LEVEL_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""No dots: a level's name prefixes those of its state tensors."""
RESERVED_LEVELS = {"phi", "projections", "slow", "counters"}


@dataclass(frozen=True)
class LevelConfig:
    """One CMS level: its period in tokens and the optimizer that is its write rule."""

    name: str
    period: int
    write_rule: str = "sgd"


@dataclass(frozen=True)
class HopeConfig:
    """A native Hope model (design section 3, family 1). Widths are in features, periods in tokens.

    ``rule_options`` are settings of the rule alone (see its ``OPTIONS``), checked when the model is built. No
    levels make a model of φ and slow MLP only, as the baselines of the paper are.
    """

    name: str
    vocab_size: int = 8192
    width: int = 256
    layers: int = 4
    heads: int = 4
    mlp_width: int = 384
    rule: str = "delta"
    chunk: int = 64
    conv_width: int = 4
    cms_width: int = 128
    levels: tuple[LevelConfig, ...] = (LevelConfig("cms-64", 64), LevelConfig("cms-256", 256))
    aggregation: str = "chain"
    block: int = 256
    rule_options: Mapping[str, bool | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name: expected a text, found {self.name!r}")
        sizes = (
            "vocab_size",
            "width",
            "layers",
            "heads",
            "mlp_width",
            "chunk",
            "conv_width",
            "cms_width",
            "block",
        )
        for name in sizes:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_SIZE:
                raise ConfigError(f"{name}: expected a positive integer, found {value!r}")
        if self.width % self.heads:
            raise ConfigError(f"heads: {self.heads} does not divide width {self.width}")
        self._check_levels()
        if not isinstance(self.rule_options, Mapping):
            raise ConfigError(f"rule_options: expected values by name, found {self.rule_options!r}")
        RULES.require(self.rule)
        AGGREGATIONS.require(self.aggregation)

    def _check_levels(self) -> None:
        names = [level.name for level in self.levels]
        for name in names:
            if not isinstance(name, str) or not LEVEL_NAME.fullmatch(name):
                raise ConfigError(f"levels: expected names of letters, digits, '-' and '_', found {name!r}")
        if len(set(names)) != len(names) or RESERVED_LEVELS & set(names):
            raise ConfigError(f"levels: names must be distinct and not reserved, found {names}")
        for level in self.levels:
            WRITE_RULES.require(level.write_rule)
        for label, period in [("chunk", self.chunk), *((level.name, level.period) for level in self.levels)]:
            if type(period) is not int or not 1 <= period <= MAX_SIZE:
                raise ConfigError(f"{label}: expected a positive integer as period, found {period!r}")
            if self.block % period and period % self.block:
                raise ConfigError(
                    f"{label}: period {period!r} neither divides block {self.block} nor is a multiple of it"
                )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def to_dict(self) -> dict[str, Any]:
        """What a file holds; without ``rule_options`` where there are none, as older files have it."""
        data = asdict(self)
        if not self.rule_options:
            del data["rule_options"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "HopeConfig":
        """Parse a configuration read from a file.

        Raises:
            ConfigError: an unknown or missing field, or a value out of range.
        """
        try:
            own = _known(cls, data)
            if "rule" not in own:
                raise ConfigError(f"rule: expected one of {', '.join(sorted(RULES))}, found none")
            if not isinstance(own["levels"], list | tuple):
                raise ConfigError(f"levels: expected a list, found {own['levels']!r}")
            levels = tuple(LevelConfig(**_known(LevelConfig, level)) for level in own["levels"])
            return cls(**{**own, "levels": levels})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"model configuration: {error}") from error


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{kind.__name__}: expected fields by name, found {data!r}")
    known = {field.name for field in fields(kind)}
    unknown = set(data) - known
    if unknown:
        raise ConfigError(f"{kind.__name__}: unknown fields {sorted(unknown)}; known: {sorted(known)}")
    return dict(data)


def _sized(name: str, width: int, layers: int, mlp_width: int, cms_width: int, vocab_size: int) -> HopeConfig:
    return HopeConfig(
        name,
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=width // 64,
        mlp_width=mlp_width,
        cms_width=cms_width,
    )


CONFIGS: dict[str, HopeConfig] = {
    config.name: config
    for config in (
        _sized("hope-tiny", 256, 4, 384, 128, 8192),
        _sized("hope-3m", 192, 4, 256, 64, 8192),
        _sized("hope-25m", 512, 6, 1408, 256, 8192),
        _sized("hope-110m", 768, 12, 2048, 256, 32768),
        _sized("hope-350m", 1024, 24, 2816, 256, 32768),
        _sized("hope-760m", 1536, 24, 4096, 384, 32768),
        _sized("hope-1.3b", 2048, 24, 5632, 512, 32768),
        _sized("experiment-small", 128, 3, 128, 64, 8192),
        _sized("experiment-base", 192, 3, 256, 64, 8192),
        _sized("experiment-large", 256, 4, 384, 128, 8192),
    )
}


def get_config(name: str) -> HopeConfig:
    """The named configuration; ConfigError lists the known ones."""
    if name not in CONFIGS:
        raise ConfigError(f"unknown configuration {name!r}; known: {', '.join(CONFIGS)}")
    return CONFIGS[name]
