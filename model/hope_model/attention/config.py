"""Configuration of a Hope-Attention model: the pre-trained block, the window and the memory levels."""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar

from hope_model.config import LEVEL_NAME, MAX_SIZE, RESERVED_LEVELS
from hope_model.errors import ConfigError

GRID = 64
"""Tokens: writes, activations and boundaries fall on multiples of it, and no launch crosses one."""
T = TypeVar("T")
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ORIGINS = ("system", "user", "tool", "model", "template", "text")


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency scaling: long wavelengths are stretched by ``factor``."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            _require_positive(name, getattr(self, name))
        _require_size("original_context", self.original_context)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError("rope_scaling: expected high_freq_factor above low_freq_factor")


@dataclass(frozen=True)
class BackboneConfig:
    """The block of Llama, Qwen2, Qwen3 and SmolLM; widths in features.

    no_rope_layers: indices of layers that attend without positions (SmolLM3).
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = True
    no_rope_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "head_width", "mlp_width"):
            _require_size(name, getattr(self, name))
        for name in ("norm_epsilon", "rope_theta"):
            _require_positive(name, getattr(self, name))
        for name in ("qkv_bias", "output_bias", "mlp_bias", "qk_norm", "tied_head"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name}: expected true or false, found {getattr(self, name)!r}")
        if self.heads % self.kv_heads:
            raise ConfigError(f"kv_heads: {self.kv_heads} does not divide heads {self.heads}")
        if self.head_width % 2:
            raise ConfigError(f"head_width: expected an even number, found {self.head_width}")
        if any(type(i) is not int or not 0 <= i < self.layers for i in self.no_rope_layers):
            raise ConfigError(f"no_rope_layers: expected layer indices, found {self.no_rope_layers}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse what ``asdict`` made and JSON carried.

        Raises:
            ConfigError: an unknown or missing field, or a value out of range.
        """
        own = _known(cls, data)
        scaling = own.get("rope_scaling")
        if scaling is not None:
            own["rope_scaling"] = _build(RopeScaling, _known(RopeScaling, scaling))
        if "no_rope_layers" in own:
            own["no_rope_layers"] = _tuple("no_rope_layers", own["no_rope_layers"])
        return _build(cls, own)


@dataclass(frozen=True)
class MemoryLevel:
    """A CMS level: deltas ``U A`` on MLP projections of some layers; ``A`` is shared, ``U`` is a session's.

    period: tokens between two writes. first_layer, last_layer: the adapted layers, both included.
    rounds: of a write that is worth them all. round_length: how far each goes at most, in the Fisher norm, so
    that half its square is about the change of the output distribution in nats. retention: nats that a change
    of length 1 costs. max_norm: Fisher norm that words may bring the level to. text_step_length,
    text_max_norm: of a period that holds plain text alone, no chat. What makes a fact stay at once is far too
    much for prose.
    """

    name: str
    period: int
    first_layer: int
    last_layer: int
    projections: tuple[str, ...] = ("down_proj",)
    rank: int = 32
    rounds: int = 3
    round_length: float = 0.06
    retention: float = 1000.0
    max_norm: float = 0.175
    text_step_length: float = 0.03
    text_max_norm: float = 0.3

    def __post_init__(self) -> None:
        if (
            not isinstance(self.name, str)
            or not LEVEL_NAME.fullmatch(self.name)
            or self.name in RESERVED_LEVELS
        ):
            raise ConfigError(f"levels: expected a name of letters, digits, '-' and '_', found {self.name!r}")
        for name in ("period", "rank", "rounds"):
            _require_size(f"{self.name}.{name}", getattr(self, name))
        for name in (
            "round_length",
            "retention",
            "max_norm",
            "text_step_length",
            "text_max_norm",
        ):
            _require_positive(f"{self.name}.{name}", getattr(self, name))
        if not self.projections or len(set(self.projections)) != len(self.projections):
            raise ConfigError(f"{self.name}.projections: expected one at least, each once")
        if unknown := set(self.projections) - set(PROJECTIONS):
            raise ConfigError(f"{self.name}.projections: expected {PROJECTIONS}, found {sorted(unknown)}")


@dataclass(frozen=True)
class MemoryConfig:
    """Where a session learns and when; positions in tokens.

    window: tokens that attention sees besides the prefix. prefix: most tokens of a system prompt that stay
    in sight. block: distance of boundaries, at which the window is encoded anew. delay: a write that starts
    at a position is active this many tokens later, whenever it was computed. teaches: origins of the tokens
    that are learned. rows: taught tokens in one slice of a write. shortlist: next tokens for each taught one
    that a write weighs against each other. canary: nats per token by which the answer to one canary text may
    have moved from theta's; a write beyond that is refused. max_divergence: the same of all canary texts at
    once, after a write of words; what is beyond that is drawn back toward theta.
    """

    levels: tuple[MemoryLevel, ...]
    window: int = 256
    prefix: int = 128
    block: int = 1024
    delay: int = 128
    teaches: tuple[str, ...] = ("system", "user", "tool", "text")
    rows: int = 64
    shortlist: int = 32
    canary: float = 1.0
    max_divergence: float = 0.2

    def __post_init__(self) -> None:
        for name in ("window", "block", "delay"):
            value = getattr(self, name)
            _require_size(name, value)
            if value % GRID:
                raise ConfigError(f"{name}: expected a multiple of {GRID}, found {value}")
        for name in ("rows", "shortlist"):
            _require_size(name, getattr(self, name))
        for name in ("canary", "max_divergence"):
            _require_positive(name, getattr(self, name))
        if type(self.prefix) is not int or not 0 <= self.prefix <= MAX_SIZE:
            raise ConfigError(f"prefix: expected a number of tokens, found {self.prefix!r}")
        if unknown := set(self.teaches) - set(ORIGINS):
            raise ConfigError(f"teaches: expected origins among {ORIGINS}, found {sorted(unknown)}")
        self._check_times()

    def _check_times(self) -> None:
        names = [level.name for level in self.levels]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"levels: expected one at least, with distinct names, found {names}")
        for level in self.levels:
            if level.period % GRID or (self.block % level.period and level.period % self.block):
                raise ConfigError(
                    f"{level.name}: period {level.period} is not a multiple of {GRID}, "
                    f"or neither divides block {self.block} nor is a multiple of it"
                )
        apart = math.gcd(*(level.period for level in self.levels))
        if self.delay > apart:
            raise ConfigError(
                f"delay: expected at most {apart}, the least between writes, found {self.delay}"
            )
        if self.reach + self.delay > self.window:
            raise ConfigError(
                f"window: {self.window} tokens leave it before the write that learns them is active "
                f"(period {self.reach}, delay {self.delay})"
            )
        if self.block < self.window + self.prefix:
            raise ConfigError(f"block: expected at least window and prefix, found {self.block}")

    @property
    def reach(self) -> int:
        """Tokens that the longest write looks back on."""
        return max(level.period for level in self.levels)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse what ``asdict`` made and JSON carried; raises ConfigError."""
        own = _known(cls, data)
        if "teaches" in own:
            own["teaches"] = _tuple("teaches", own["teaches"])
        levels = []
        for level in _tuple("levels", own.get("levels")):
            values = _known(MemoryLevel, level)
            if "projections" in values:
                values["projections"] = _tuple("projections", values["projections"])
            levels.append(_build(MemoryLevel, values))
        return _build(cls, {**own, "levels": tuple(levels)})


@dataclass(frozen=True)
class HopeAttentionConfig:
    """A Hope-Attention model (design section 3, family 2)."""

    name: str
    backbone: BackboneConfig
    memory: MemoryConfig

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"name: expected a text, found {self.name!r}")
        taken: dict[tuple[int, str], str] = {}
        for level in self.memory.levels:
            if not 0 <= level.first_layer <= level.last_layer < self.backbone.layers:
                raise ConfigError(
                    f"{level.name}: layers {level.first_layer} to {level.last_layer} are not among "
                    f"the model's {self.backbone.layers}"
                )
            for layer in range(level.first_layer, level.last_layer + 1):
                for projection in level.projections:
                    if (other := taken.setdefault((layer, projection), level.name)) != level.name:
                        raise ConfigError(f"{level.name}: {projection} of layer {layer} belongs to {other}")

    @property
    def block(self) -> int:
        return self.memory.block

    @property
    def vocab_size(self) -> int:
        return self.backbone.vocab_size

    @property
    def first_adapted(self) -> int:
        """The layers below it do not depend on the session's memory."""
        return min(level.first_layer for level in self.memory.levels)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Parse what :meth:`to_dict` made and JSON carried; raises ConfigError."""
        own = _known(cls, data)
        for name, kind in (("backbone", BackboneConfig), ("memory", MemoryConfig)):
            if name in own:
                own[name] = kind.from_dict(own[name])
        return _build(cls, own)


def _build(kind: type[T], values: dict[str, Any]) -> T:
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from error


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{kind.__name__}: expected fields by name, found {data!r}")
    known = {field.name for field in fields(kind)}
    if unknown := set(data) - known:
        raise ConfigError(f"{kind.__name__}: unknown fields {sorted(unknown)}; known: {sorted(known)}")
    return dict(data)


def _tuple(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name}: expected a list, found {value!r}")
    return tuple(value)


def _require_size(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise ConfigError(f"{name}: expected a positive integer, found {value!r}")


def _require_positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"{name}: expected a positive number, found {value!r}")
