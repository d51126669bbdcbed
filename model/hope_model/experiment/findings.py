"""What agrees with the paper and what does not, in sentences made from figures."""

from collections.abc import Iterator

from hope_model.experiment import paper
from hope_model.experiment.figures import (
    Noise,
    Results,
    finished_systems,
    loss_of,
    position_losses,
    rank_correlation,
    slope,
    title_of,
    verdict,
)
from hope_model.experiment.plan import HOPE, PAIRS, SYSTEMS, TRANSFORMER


def findings(results: Results, noise: Noise | None) -> list[str]:
    """Sentences; one that says so when there is nothing to compare yet."""
    found = [
        *_order(results, noise),
        *_hope_against_others(results, noise),
        *_ablations(results, noise),
        *_slopes(results),
        *_streams(results),
    ]
    return found or ["Nothing to compare yet: fewer than two systems are finished."]


def _order(results: Results, noise: Noise | None) -> Iterator[str]:
    names = finished_systems(results)
    if len(names) < 2:
        return
    listed = ", ".join(f"{title_of(name)} {loss_of(results[name]):.3f}" for name in names)
    missing = len(SYSTEMS) - len(names)
    yield f"By held-out loss, best first: {listed}." + (
        f" {missing} systems are not run yet." if missing else ""
    )
    correlation = rank_correlation(results)
    if correlation is not None:
        yield (
            "Rank correlation with the paper's WikiText perplexity at 760M (Spearman): "
            f"{correlation[0]:+.2f} over {correlation[1]} systems."
        )


def _hope_against_others(results: Results, noise: Noise | None) -> Iterator[str]:
    """The paper has Hope's perplexity below that of every other system."""
    if HOPE.name not in results:
        yield "Hope is not run yet, so the paper's claim that it does best is open."
        return
    own, doubt = loss_of(results[HOPE.name]), _doubt(noise)
    groups: dict[str, list[str]] = {}
    for name in finished_systems(results):
        if name in paper.TABLE_2 and name != HOPE.name:
            groups.setdefault(verdict(own - loss_of(results[name]), noise), []).append(title_of(name))
    for judged, titles in groups.items():
        if judged.startswith("lower"):
            yield f"Agrees with the paper: Hope's loss is lower than that of {', '.join(titles)}{doubt}."
        elif judged.startswith("higher"):
            yield f"Does not agree: Hope's loss is higher than that of {', '.join(titles)}{doubt}."
        else:
            yield f"Hope cannot be told from {', '.join(titles)}: the difference is within noise."
    for name in finished_systems(results):
        if name not in paper.TABLE_2:
            difference = own - loss_of(results[name])
            yield (
                f"Beside {title_of(name)}, of which the paper has no such figure, Hope's loss is "
                f"{verdict(difference, noise)} ({difference:+.3f} nats){doubt}."
            )


def _ablations(results: Results, noise: Noise | None) -> Iterator[str]:
    """The paper's perplexity rises with every part that is taken away but the inner projection of q."""
    for column, with_it, without in PAIRS:
        if with_it not in results or without not in results:
            continue
        difference = loss_of(results[without]) - loss_of(results[with_it])
        judged = verdict(difference, noise)
        theirs = "higher" if paper.TABLE_6[column][0] > paper.TABLE_6_HOPE[0] else "lower"
        if judged == "within noise":
            said = "no difference that the noise would not make"
        else:
            said = "agrees" if judged.rstrip("?") == theirs else "does not agree"
        yield (
            f"Ablation {column}: {difference:+.3f} nats; the paper's perplexity is {theirs}: "
            f"{said}{_doubt(noise)}."
        )


def _slopes(results: Results) -> Iterator[str]:
    found = {system: slope(results, system.name) for system in (HOPE, TRANSFORMER)}
    for system, own in found.items():
        if own is not None:
            yield f"{system.title} gains {-own[0]:.3f} nats per tenfold parameters over {len(own[1])} sizes."


def _streams(results: Results) -> Iterator[str]:
    """Whether loss falls, or rises, along a stream far longer than any window of training."""
    for name in finished_systems(results):
        points = position_losses(results[name])
        if len(points) > 2:
            (middle, before), (end, after) = points[len(points) // 2], points[-1]
            yield (
                f"{title_of(name)} on long streams: {before:.3f} nats up to token {middle:,}, "
                f"{after:.3f} in the last stretch to {end:,} ({after - before:+.3f})."
            )


def _doubt(noise: Noise | None) -> str:
    return "" if noise is not None else " (noise not known yet)"
