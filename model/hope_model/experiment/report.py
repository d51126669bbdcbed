"""EXPERIMENTS.md from the results alone: what was measured, beside what the paper says."""

import os
from collections.abc import Iterator
from pathlib import Path

from hope_model.experiment import tables
from hope_model.experiment.cost import core_hours
from hope_model.experiment.figures import Noise, Results, losses_of, noise_of
from hope_model.experiment.findings import findings
from hope_model.experiment.plan import (
    ABLATIONS,
    BASE,
    SEEDS,
    SIZES,
    SYSTEMS,
    TOP,
    schedule,
    seed_runs,
    top_systems,
)
from hope_model.experiment.plots import draw_all
from hope_model.experiment.results import read_results
from hope_model.experiment.settings import EvaluationSettings, ExperimentSettings

PLOTS = "plots"
_CAPTIONS = {
    "loss-by-tokens.png": "Loss against tokens of training",
    "loss-by-position.png": "Loss against position in streams of held-out books",
    "quality-by-bytes.png": "Held-out loss against the bytes of a session's state",
    "update-spectrum.png": "Update spectrum: how often a level is written and how far it goes",
}


def write_report(results_folder: Path, out: Path) -> str:
    """Write ``out`` and its pictures, in ``plots`` beside the results' folder; returns the text.

    Raises:
        ExperimentError: a result is broken, or results were made with different settings.
    """
    results = read_results(results_folder)
    settings = ExperimentSettings()
    for result in results.values():
        settings = ExperimentSettings.from_dict(result["fingerprint"].get("settings", {}))
    plots = results_folder.parent / PLOTS
    pictures = draw_all(results, plots)
    relative = Path(os.path.relpath(plots, out.parent)).as_posix()
    text = "\n\n".join(_sections(results, settings, pictures, relative)) + "\n"
    out.write_text(text, encoding="utf-8")
    return text


def _sections(
    results: Results, settings: ExperimentSettings, pictures: list[str], plots: str
) -> Iterator[str]:
    noise = noise_of(results)
    yield "# Experiments"
    yield _HEAD
    yield "## Where it stands\n\n" + _status(results, settings)
    yield "## How it is made\n\n" + _how(settings)
    yield "## What the figures say\n\n" + "\n".join(f"- {line}" for line in findings(results, noise))
    yield "## Noise\n\n" + _noise(noise)
    yield "## Systems\n\n" + tables.systems(results)
    if results:
        yield "## Beside the paper's Table 2\n\n" + _beside(results, settings.evaluation)
        yield "## Recall\n\n" + _RECALL + "\n\n" + tables.recall(results)
    yield "## Ablations of Hope\n\n" + _ABLATIONS + "\n\n" + tables.ablations(results, noise)
    yield "## Sizes\n\n" + _SIZES + "\n\n" + tables.sizes(results)
    for name in pictures:
        yield f"## {_CAPTIONS[name]}\n\n![{_CAPTIONS[name]}]({plots}/{name})"
    if results:
        yield "## Levels\n\n" + _LEVELS + "\n\n" + tables.levels(results)
        yield "## Learning rates\n\n" + tables.tuning(results)


def _status(results: Results, settings: ExperimentSettings) -> str:
    losses = losses_of(results)
    planned = schedule(losses)
    left = [run for run in planned if run.name not in results]
    hours = [core_hours(runs, settings) for runs in (left, planned)]
    lines = [f"{len(planned) - len(left)} of {len(planned)} runs that are planned so far are finished."]
    if not top_systems(losses):
        # Nobody knows yet who is best: the mean of all systems stands for each.
        each = sum(core_hours(seed_runs(system), settings) for system in SYSTEMS) / len(SYSTEMS)
        hours = [own + TOP * each for own in hours]
        count = TOP * (len(SEEDS) - 1)
        lines.append(f"{count} more, further seeds of the best {TOP}, join when all systems have a result.")
    lines.append(
        f"About {hours[0]:.0f} of {hours[1]:.0f} hours of one core are left (Intel Xeon with AMX). "
        "A run that is missing below is said to be; no figure stands in for it."
    )
    return "\n".join(lines)


def _how(settings: ExperimentSettings) -> str:
    rates = ", ".join(f"{rate:g}" for rate in settings.rates)
    return f"""\
    hope experiment run --data PRETRAIN/core --kit KIT --work DIR [--minutes N] [--jobs N] [--only NAME ...]
    hope experiment report

The first command goes on wherever it was stopped, also by `kill -9` or `--minutes`, and makes what has
no result yet: {len(SYSTEMS)} systems, then {len(SEEDS) - 1} further seeds of the best {TOP},
{len(ABLATIONS)} ablations, {len(SIZES)} other sizes (`hope experiment list`). It refuses a folder or
results of other settings.
Some from scratch, and whether they come out the same:

    hope experiment run --data PRETRAIN/core --kit KIT --work NEW --results OTHER --only NAME ...
    hope experiment compare OTHER

- Each run: {settings.tokens:,} tokens of the core mixture in the same order (with the same seed),
  {settings.rows} lanes of {settings.window} tokens, state carried from window to window,
  {settings.precision} products of slow weights, memories in fp32, AdamW and its schedule as
  `hope train` has them.
- Size: {BASE / 1e6:g} M parameters; the slow MLP's width makes up for what a rule needs, so that all have
  the same count within 3%. Baselines have no CMS levels, Hope has two.
- Tokenizer: that of `hope-tiny`, 8,192 entries.
- Learning rate: each run tries {rates} on the first {settings.tuning_tokens:,} tokens
  with a schedule of that length; the lowest mean loss of the last quarter wins; while that
  is an end of them, one more beyond it is tried. A short prefix favours high rates, for all alike.
  Further seeds take the rate of the first.
- Held-out text: one document in {settings.heldout_share} of each set, chosen by its hash, is kept out of
  training. The loss is the mean by set, weighted as the mixture is. Long streams:
  {settings.evaluation.stream:,} tokens of three books that are in no training text."""


def _noise(noise: Noise | None) -> str:
    if noise is None:
        return (
            f"Not known yet: no system has been run with all {len(SEEDS)} seeds. Until then a difference of "
            "two runs is marked with `?`."
        )
    return f"""\
{tables.noise(noise)}

Pooled standard deviation of a run's held-out loss: {noise.deviation:.4f} nats; a run that is made again
with any seed is within {noise.repetition:.4f} of the first (1.96 sqrt(2) standard deviations).

{_judged(noise)}"""


def _judged(noise: Noise) -> str:
    if noise.paired is None:
        return """\
A seed changes weights, order of text and resets; systems at the same seed share the latter two, so that this
is too much for a comparison of them, which it serves until a second system has all seeds."""
    return f"""\
A seed changes weights, order of text and resets, and systems at the same seed share the latter two: what is
left of a loss without its system's mean and its seed's has a standard deviation of {noise.paired:.4f} nats
({noise.freedom} degrees of freedom). Systems are compared at the same seed: two that differ by less than
{noise.difference:.4f} nats are called equal (95% of Student's distribution). This takes the noise of the
systems above for that of all."""


def _beside(results: Results, settings: EvaluationSettings) -> str:
    rows = ", ".join(f"{name} {count}" for name, count in settings.rows.items())
    return f"""\
In each cell the paper's figure, at 760M parameters and 30B tokens, then ours, with a 250th of the
parameters and a 7000th of the tokens. Ours are of {settings.articles} articles of WikiText-2 (perplexity
per word) and of the first rows of each file ({rows}).
Standard errors in points, the largest of all systems: {tables.errors(results)}.
At this size most tasks are near chance (PIQA, Wino, BoolQ 50, SIQA 33, the others 25): perplexities
carry the comparison. The last column is the mean of the eight accuracies; the paper prints 47.3 for TTT,
whose eight make 49.4.

{tables.beside_paper(results)}"""


_HEAD = """\
Every system of the paper (arXiv 2512.24695) on one engine, trained alike and measured alike.
`hope experiment report` makes this file from the JSON files in `model/experiments/results`; do not edit
it."""
_RECALL = """\
A passage of held-out text is read twice, other text between. Nats per token that the second reading
saves, by the gap in tokens."""
_ABLATIONS = """\
The paper's Table 6 takes one part at a time from a Hope with momentum and an adaptive q. Its equations
83-97 have neither, nor has ours by default: for these two the pair is Hope with the part, and Hope.
Change: held-out nats that taking the part away adds."""
_SIZES = "All parameters count, embeddings too (1.0, 1.6 and 2.1 M of them)."
_LEVELS = """\
After the long streams. Writes per token are counted, not computed from the period. Drift: norm of what
was learned over that of the initial memory (or of unit writes, where that is zero), so it compares
within a system, less between systems."""
