"""Which runs the experiment consists of, and in which order they are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hope_model.errors import ConfigError

SMALL, BASE, LARGE = 1_800_000, 3_000_000, 6_000_000
"""Parameters of the three sizes, matched within 3%."""
SEEDS = (1, 2, 3)
TOP = 3
"""So many of the best systems are run with every seed."""


@dataclass(frozen=True)
class Run:
    """One model to tune, train and evaluate.

    Attributes:
        group: ``system``, ``seed``, ``ablation`` or ``size``.
        model: the configuration of ``hope_model.config`` that gives width and depth.
        rule, options, levels: as ``hope train`` has them.
        parameters: count to reach by the slow MLP's width.
        rate_of: the run whose tuned learning rate is taken; empty for its own.
    """

    name: str
    title: str
    group: str
    rule: str
    options: str = ""
    levels: str = "none"
    model: str = "experiment-base"
    parameters: int = BASE
    seed: int = SEEDS[0]
    rate_of: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


HOPE = Run("hope", "Hope", "system", "hope", levels="config")
TRANSFORMER = Run("transformer", "Transformer++", "system", "transformer")
SYSTEMS = (
    TRANSFORMER,
    Run("retnet", "RetNet", "system", "retnet"),
    Run("deltanet", "DeltaNet", "system", "deltanet"),
    Run("gated_deltanet", "Gated DeltaNet", "system", "gated_deltanet"),
    HOPE,
    Run("titans", "Titans", "system", "titans"),
    Run("comba", "Comba", "system", "comba"),
    Run("ttt", "TTT", "system", "ttt"),
    Run("miras", "Miras (Memora)", "system", "miras"),
    Run("dla", "DLA", "system", "dla"),
    Run("rwkv7", "RWKV-7", "system", "rwkv7"),
    Run("samba", "Samba", "system", "samba"),
)
"""Cheap ones first, Hope early."""


def _ablation(name: str, title: str, options: str = "", levels: str = "config") -> Run:
    return replace(HOPE, name=f"hope-{name}", title=title, group="ablation", options=options, levels=levels)


ABLATIONS = (
    _ablation("no-cms", "Hope without CMS", levels="none"),
    _ablation("no-dgd", "Hope without DGD", "dgd=off"),
    _ablation("no-retention", "Hope without weight decay", "retention=off"),
    _ablation("no-inner-k", "Hope without inner projection k", "inner_k=off"),
    _ablation("no-inner-v", "Hope without inner projection v", "inner_v=off"),
    _ablation("inner-q", "Hope with inner projection q", "inner_q=on"),
    _ablation("momentum", "Hope with momentum", "momentum=on"),
)
PAIRS = (
    ("w/o DGD", "hope", "hope-no-dgd"),
    ("w/o momentum", "hope-momentum", "hope"),
    ("w/o weight decay", "hope", "hope-no-retention"),
    ("w/o CMS", "hope", "hope-no-cms"),
    ("w/o inner projection k", "hope", "hope-no-inner-k"),
    ("w/o inner projection v", "hope", "hope-no-inner-v"),
    ("w/o inner projection q", "hope-inner-q", "hope"),
)
"""Columns of the paper's Table 6: the run with the part, and the same without. The rule's default has no
momentum and a static q, as the paper's equations 83-97 do; its table starts from both.
"""


def _sizes() -> tuple[Run, ...]:
    return tuple(
        replace(
            run,
            name=f"{run.name}-{size}",
            title=f"{run.title}, {parameters / 1e6:.1f} M",
            group="size",
            model=f"experiment-{size}",
            parameters=parameters,
        )
        for size, parameters in (("small", SMALL), ("large", LARGE))
        for run in (TRANSFORMER, HOPE)
    )


SIZES = _sizes()


def seed_runs(system: Run) -> tuple[Run, ...]:
    """The system with the further seeds, at the rate tuned with the first."""
    return tuple(
        replace(
            system,
            name=f"{system.name}-seed-{seed}",
            title=f"{system.title}, seed {seed}",
            group="seed",
            seed=seed,
            rate_of=system.name,
        )
        for seed in SEEDS[1:]
    )


ALL = {
    run.name: run
    for run in (*SYSTEMS, *(run for system in SYSTEMS for run in seed_runs(system)), *ABLATIONS, *SIZES)
}
"""Every run that can be asked for by name."""


def sizes_of(system: str) -> tuple[Run, ...]:
    """The system in all its sizes, smallest first."""
    return ALL[f"{system}-small"], ALL[system], ALL[f"{system}-large"]


def top_systems(losses: Mapping[str, float]) -> tuple[Run, ...]:
    """The best systems by ``losses`` (lower is better), by run; empty until every system has one."""
    if any(system.name not in losses for system in SYSTEMS):
        return ()
    return tuple(sorted(SYSTEMS, key=lambda system: losses[system.name])[:TOP])


def schedule(losses: Mapping[str, float]) -> tuple[Run, ...]:
    """All systems with one seed, further seeds of the best, ablations, sizes.

    losses: of the finished runs, by name. Seeds are in it once it is known who is best.
    """
    seeds = tuple(run for system in top_systems(losses) for run in seed_runs(system))
    return (*SYSTEMS, *seeds, *ABLATIONS, *SIZES)


def chosen(names: list[str]) -> tuple[Run, ...]:
    """The named runs, in that order; ConfigError for a name that no run has."""
    for name in names:
        if name not in ALL:
            raise ConfigError(f"only: expected one of {', '.join(ALL)}, found {name!r}")
    return tuple(ALL[name] for name in dict.fromkeys(names))
