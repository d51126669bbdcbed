"""What a run costs, so that whoever has few hours can choose."""

from collections.abc import Iterable

from hope_model.experiment.plan import BASE, Run
from hope_model.experiment.settings import ExperimentSettings

TOKENS_PER_CPU_S = {
    "transformer": 3335,
    "retnet": 5855,
    "deltanet": 4488,
    "gated_deltanet": 2681,
    "hope": 1033,
    "titans": 3000,
    "comba": 2616,
    "ttt": 4230,
    "miras": 3667,
    "dla": 3559,
    "rwkv7": 3177,
    "samba": 1771,
}
"""Training tokens per second of one core of an Intel Xeon with AMX, at 3 M parameters, by rule."""
EVALUATION_TOKENS = 450_000
"""Read once, forward only, which is about three times as fast."""


def core_hours(runs: Iterable[Run], settings: ExperimentSettings) -> float:
    """Hours of one such core for tuning, training and measuring ``runs``; time grows with the parameters."""
    seconds = 0.0
    for run in runs:
        tuning = 0 if run.rate_of else len(settings.rates) * settings.tuning_tokens
        tokens = settings.tokens + tuning + EVALUATION_TOKENS / 3
        seconds += tokens * run.parameters / BASE / TOKENS_PER_CPU_S[run.rule]
    return seconds / 3600
