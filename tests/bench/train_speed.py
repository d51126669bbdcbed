"""Training benchmark: tokens per second of a Hope model and of the Transformer that it is compared with.

    python tests/bench/train_speed.py [--precision auto|float32|bfloat16] [--threads N] [--json FILE]

Both train in one process, a step of one after a step of the other, so that what else the machine does meets
both. The Transformer has the same count of parameters (within 1%) and of layers. The ratio comes first; it
holds on other machines, absolute figures do not.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hope_model.config import get_config
from hope_model.state import State
from hope_model.train.data import Batch
from hope_model.train.machine import faster_precision, keep_freed_memory
from hope_model.train.objective import Objective, objective_of
from hope_model.train.optimizer import make_optimizer
from hope_model.train.processes import Processes
from hope_model.train.settings import PRECISIONS, TRANSFORMER_PREFIX, TrainSettings
from hope_model.train.trainer import optimizer_step

WARM_UP = 2
"""Steps of each model that are not counted."""


def main(arguments: list[str] | None = None) -> None:
    defaults = TrainSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--rows", type=int, default=defaults.rows, help="lanes (default: %(default)s)")
    parser.add_argument(
        "--window", type=int, default=defaults.window, help="tokens a window (default: %(default)s)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=defaults.precision)
    parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(arguments)
    if args.repeats < 1 or (args.threads or 1) < 1:
        parser.error("repeats and threads: expected positive integers")
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = TrainSettings(model=args.model, rows=args.rows, window=args.window, precision=args.precision)
    figures = measure(settings, args.repeats)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(figures))


@dataclass
class Contestant:
    """A model in training, and what its steps took."""

    name: str
    objective: Objective
    optimizer: torch.optim.Optimizer
    state: State
    precision: str
    seconds: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.objective.model.parameters())


def measure(settings: TrainSettings, repeats: int) -> dict[str, Any]:
    """Medians of ``repeats`` steps of each model, in turn; figures by "hope" and "transformer"."""
    torch.manual_seed(settings.seed)
    processes = Processes.join()
    batches = [random_batch(settings) for _ in range(WARM_UP + repeats)]
    pair = {
        "hope": enter(settings.model, settings, processes, batches[0]),
        "transformer": enter(TRANSFORMER_PREFIX + settings.model, settings, processes, batches[0]),
    }
    for batch in batches:
        for contestant in pair.values():
            take_step(contestant, settings, processes, batch)
    tokens = settings.rows * settings.window
    medians = {name: statistics.median(one.seconds[WARM_UP:]) for name, one in pair.items()}
    return {
        "machine": f"{machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "model": settings.model,
        "rows": settings.rows,
        "window": settings.window,
        "ratio": medians["transformer"] / medians["hope"],
        "tokens_per_s": {name: tokens / seconds for name, seconds in medians.items()},
        "step_s": {name: one.seconds[WARM_UP:] for name, one in pair.items()},
        "parameters": {name: one.parameters for name, one in pair.items()},
        "precision": {name: one.precision for name, one in pair.items()},
    }


def random_batch(settings: TrainSettings) -> Batch:
    """Windows of random tokens; no lane is reset."""
    tokens = torch.randint(get_config(settings.model).vocab_size, (settings.rows, settings.window + 1))
    return Batch(tokens, torch.zeros(settings.rows, dtype=torch.bool), ("random",) * settings.rows)


def enter(name: str, settings: TrainSettings, processes: Processes, batch: Batch) -> Contestant:
    """The settings' model under another name, at its start; ``auto`` chooses precision as the trainer
    does.
    """
    objective = objective_of(replace(settings, model=name))
    objective.model.to(processes.device)
    optimizer = make_optimizer(objective.model, settings)
    state = objective.initial_state(settings.rows)
    tokens, resets = batch.tokens.to(processes.device), batch.resets.to(processes.device)

    def probe() -> None:
        loss, _ = objective.loss(tokens, resets, state)
        torch.autograd.backward(loss)
        optimizer.zero_grad()

    precision = settings.precision
    if precision == "auto":
        precision = faster_precision(probe, processes.device)
    return Contestant(name, objective, optimizer, state, precision)


def take_step(one: Contestant, settings: TrainSettings, processes: Processes, batch: Batch) -> None:
    """Forward, backward, clip and optimizer step; its loss is read, which waits for the device."""
    start = time.perf_counter()
    loss, _, one.state = optimizer_step(
        one.objective,
        one.optimizer,
        processes,
        batch,
        one.state,
        precision=one.precision,
        clip_norm=settings.clip_norm,
    )
    if not bool(loss.isfinite()):
        raise SystemExit(f"{one.name}: the loss is not finite")
    one.seconds.append(time.perf_counter() - start)


def table(figures: dict[str, Any]) -> str:
    ratio, count = figures["ratio"], len(figures["step_s"]["hope"])
    speeds, parameters, precisions = (
        (figures[key]["hope"], figures[key]["transformer"])
        for key in ("tokens_per_s", "parameters", "precision")
    )
    medians = [statistics.median(figures["step_s"][name]) * 1e3 for name in ("hope", "transformer")]
    rows = [
        ("training tokens/s", f"{ratio:.2f}", *(f"{speed:,.0f}" for speed in speeds)),
        (f"a step, median of {count}", f"{1 / ratio:.2f}", *(f"{median:,.0f} ms" for median in medians)),
        ("parameters", f"{parameters[0] / parameters[1]:.3f}", *(f"{number:,}" for number in parameters)),
        ("precision", "", *precisions),
    ]
    lines = [f"| figure | ratio | {figures['model']} | Transformer |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    shape = f"{figures['rows']} rows, windows of {figures['window']} tokens"
    return "\n".join(lines) + f"\n\n{shape}. Machine: {figures['machine']}."


def machine() -> str:
    """Cores, architecture and, where the system tells it, the processor's or the GPU's name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {platform.machine()}"
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return f"{os.cpu_count()} cores, {platform.machine()}, {found[1] if found else platform.processor()}"


if __name__ == "__main__":
    main()
