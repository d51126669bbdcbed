"""Training benchmark of the φ rules: tokens per second of each at equal parameters, as a share of
``delta``'s.

    python -m tests.bench.rule_speed [RULE[:OPTION=VALUE,...] ...] [--parameters N] [--json FILE]

A step of each rule follows one of ``delta``, so that what else the machine does meets both; a rule's line is
printed when it is measured. The models have CMS levels only with ``--levels``. The share comes first; it
holds on other machines, absolute figures do not.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from tests.bench.train_speed import WARM_UP, enter, machine, random_batch, take_step

from hope_model.config import CONFIGS
from hope_model.rules import RULES
from hope_model.train.machine import keep_freed_memory
from hope_model.train.processes import Processes
from hope_model.train.settings import PRECISIONS, TrainSettings

BASE = "delta"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rules", nargs="*", help="default: all")
    parser.add_argument("--model", default="hope-3m", choices=sorted(CONFIGS))
    parser.add_argument("--parameters", type=int, default=3_300_000)
    parser.add_argument("--levels", action="store_true", help="with the configuration's CMS levels")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    names = args.rules or [rule for rule in RULES if rule != BASE]
    base = settings_of(BASE, args)
    print(f"{base.rows} rows, windows of {base.window} tokens. Machine: {described()}.\n")
    print("| rule | share of delta's | tokens/s | parameters | state, KiB |\n|---|---|---|---|---|")
    figures = {}
    for name in names:
        figures[name] = measure(base, settings_of(name, args), args.repeats)
        print(row(name, figures[name]), flush=True)
    if args.json:
        content = {"machine": described(), "rows": base.rows, "window": base.window, "rules": figures}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def settings_of(name: str, args: argparse.Namespace) -> TrainSettings:
    rule, _, options = name.partition(":")
    return TrainSettings(
        model=args.model,
        rule=rule,
        rule_options=options,
        levels="config" if args.levels else "none",
        parameters=args.parameters,
        rows=args.rows,
        window=args.window,
        precision=args.precision,
    )


def measure(base: TrainSettings, settings: TrainSettings, repeats: int) -> dict[str, float]:
    """Medians of ``repeats`` steps of a rule, each after one of the base."""
    torch.manual_seed(1)
    processes = Processes.join()
    batches = [random_batch(settings) for _ in range(WARM_UP + repeats)]
    pair = [(own, enter(own.model, own, processes, batches[0])) for own in (base, settings)]
    for batch in batches:
        for own, one in pair:
            take_step(one, own, processes, batch)
    slow, own_time = (statistics.median(one.seconds[WARM_UP:]) for _, one in pair)
    state = pair[1][1].state
    return {
        "share": slow / own_time,
        "tokens_per_s": settings.rows * settings.window / own_time,
        "parameters": pair[1][1].parameters,
        "state_bytes": sum(t.numel() * t.element_size() for t in state.values()) // settings.rows,
    }


def row(name: str, own: dict[str, float]) -> str:
    return (
        f"| {name} | {own['share']:.2f} | {own['tokens_per_s']:,.0f} | {own['parameters']:,} | "
        f"{own['state_bytes'] / 1024:,.0f} |"
    )


def described() -> str:
    return f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


if __name__ == "__main__":
    main()
