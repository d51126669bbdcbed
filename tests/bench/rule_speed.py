"""Training benchmark of the φ rules: tokens per second of each at equal parameters, as a share of
``delta``'s.

    python tests/bench/rule_speed.py [RULE[:OPTION=VALUE,...] ...] [--parameters N] [--json FILE]

Every round takes one step of each, ``delta`` first, so that what else the machine does meets all. The models
have CMS levels only with ``--levels``. The share comes first; it holds on other machines, absolute figures
do not.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from tests.bench.train_speed import WARM_UP, enter, machine, random_batch, take_step

from hope_model.config import CONFIGS
from hope_model.rules import RULES
from hope_model.train.machine import keep_freed_memory
from hope_model.train.processes import Processes
from hope_model.train.settings import PRECISIONS, TrainSettings


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
    names = args.rules or [rule for rule in RULES if rule != "delta"]
    settings = {name: settings_of(name, args) for name in ("delta", *names)}
    figures = measure(settings, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


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


def measure(settings: dict[str, TrainSettings], repeats: int) -> dict[str, Any]:
    """Medians of ``repeats`` steps of each, in turn, by name."""
    torch.manual_seed(1)
    processes = Processes.join()
    first = next(iter(settings.values()))
    batches = [random_batch(first) for _ in range(WARM_UP + repeats)]
    entered = {name: enter(own.model, own, processes, batches[0]) for name, own in settings.items()}
    for batch in batches:
        for name, one in entered.items():
            take_step(one, settings[name], processes, batch)
    medians = {name: statistics.median(one.seconds[WARM_UP:]) for name, one in entered.items()}
    return {
        "machine": f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "rows": first.rows,
        "window": first.window,
        "rules": {
            name: {
                "share": medians["delta"] / medians[name],
                "tokens_per_s": first.rows * first.window / medians[name],
                "parameters": one.parameters,
                "state_bytes": sum(t.numel() * t.element_size() for t in one.state.values()) // first.rows,
            }
            for name, one in entered.items()
        },
    }


def table(figures: dict[str, Any]) -> str:
    lines = ["| rule | share of delta's | tokens/s | parameters | state, KiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {own['share']:.2f} | {own['tokens_per_s']:,.0f} | {own['parameters']:,} | "
        f"{own['state_bytes'] / 1024:,.0f} |"
        for name, own in figures["rules"].items()
    ]
    shape = f"{figures['rows']} rows, windows of {figures['window']} tokens"
    return "\n".join(lines) + f"\n\n{shape}. Machine: {figures['machine']}."


if __name__ == "__main__":
    main()
