"""What all runs of the experiment have in common, and the fingerprint that keeps others out."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hope_model.errors import ConfigError, ExperimentError
from hope_model.experiment.plan import Run
from hope_model.train.settings import TrainSettings

FORMAT = 2
"""Grows when the meaning of a figure changes: results of another format are not mixed in."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Lengths in tokens.

    Attributes:
        heldout_rows, heldout_tokens: held-out text per run of the model and its length.
        stream: length of a long stream; heldout streams are read from their first token.
        recall_rows, recall_tokens, recall_gaps: passages that are read twice, and what lies between.
        rows: of each benchmark, the first so many; ``articles`` of WikiText.
    """

    heldout_rows: int = 16
    heldout_tokens: int = 4096
    stream: int = 32_768
    recall_rows: int = 16
    recall_tokens: int = 128
    recall_gaps: tuple[int, ...] = (0, 512, 2048)
    rows: Mapping[str, int] = field(
        default_factory=lambda: {
            "lambada": 200,
            "piqa": 200,
            "hellaswag": 150,
            "winogrande": 300,
            "arc_easy": 200,
            "arc_challenge": 200,
            "siqa": 200,
            "boolq": 100,
        }
    )
    articles: int = 10


@dataclass(frozen=True)
class ExperimentSettings:
    """How every run is tuned, trained and evaluated; see ``TrainSettings`` for what the names mean.

    Attributes:
        rates: learning rates that are tried, ascending by equal factors, each on the first ``tuning_tokens``
            of the text with a schedule of that length; the lowest mean loss over the last quarter of its
            steps wins. While that is an end of them, one more beyond it is tried.
        mixture: a built-in mixture of sets.
        heldout_share: one document in so many is kept out of training.
    """

    tokens: int = 4_194_304
    rows: int = 8
    window: int = 512
    warmup: int = 100
    rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3)
    tuning_tokens: int = 262_144
    tuning_warmup: int = 16
    precision: str = "bfloat16"
    mixture: str = "core"
    heldout_share: int = 32
    save_every: int = 64
    evaluation: EvaluationSettings = EvaluationSettings()

    def __post_init__(self) -> None:
        factors = [later / rate for rate, later in itertools.pairwise(self.rates) if rate > 0]
        equal = all(math.isclose(factor, factors[0]) and factor > 1 for factor in factors)
        if not self.rates or min(self.rates) <= 0 or not equal or self.heldout_share < 2:
            raise ConfigError(
                "experiment: expected rates that ascend by equal factors and a held-out share from 2, "
                f"found {self}"
            )

    def training(self, run: Run, rate: float, *, tuning: bool) -> TrainSettings:
        """The trainer's settings for one run at one rate."""
        return TrainSettings(
            model=run.model,
            rule=run.rule,
            rule_options=run.options,
            levels=run.levels,
            parameters=run.parameters,
            tokens=self.tuning_tokens if tuning else self.tokens,
            rows=self.rows,
            window=self.window,
            learning_rate=rate,
            warmup=self.tuning_warmup if tuning else self.warmup,
            seed=run.seed,
            precision=self.precision,
            save_every=self.save_every,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ExperimentSettings":
        """What :meth:`to_dict` gave.

        Raises:
            ExperimentError: a field is missing, unknown or of another kind.
        """
        try:
            own = {name: value for name, value in data.items() if name != "trainer"}
            evaluation = dict(own.pop("evaluation"))
            gaps = tuple(evaluation.pop("recall_gaps"))
            rates = tuple(own.pop("rates"))
            return cls(**own, rates=rates, evaluation=EvaluationSettings(**evaluation, recall_gaps=gaps))
        except (KeyError, TypeError, AttributeError) as error:
            raise ExperimentError(f"settings of the experiment: cannot be read: {error!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of what figures depend on."""
        own = asdict(self)
        del own["save_every"]
        own["rates"] = list(self.rates)
        own["evaluation"]["recall_gaps"] = list(self.evaluation.recall_gaps)
        own["evaluation"]["rows"] = dict(self.evaluation.rows)
        own["trainer"] = {
            name: value
            for name, value in TrainSettings().to_dict().items()
            if name in ("reset_probability", "final_rate", "weight_decay", "clip_norm")
        }
        return own


def fingerprint(
    settings: ExperimentSettings, tokenizer_sha256: str, files: Mapping[str, str]
) -> dict[str, Any]:
    """What a result depends on beside its run: ``files`` are the sha256 of what is read, by name."""
    return {
        "format": FORMAT,
        "settings": settings.to_dict(),
        "tokenizer": tokenizer_sha256,
        "files": dict(sorted(files.items())),
    }


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``name: found ..., expected ...`` for every value that is not the same."""
    lines = []
    for name in sorted({*found, *expected}):
        left, right = found.get(name), expected.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: expected {right!r}, found {left!r}")
    return lines


def sha256_of(path: Path) -> str:
    """Hex digest of a file; OSError when it cannot be read."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
