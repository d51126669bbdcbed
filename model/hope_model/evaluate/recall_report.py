"""The recall measurement as files: JSON, a Markdown report, a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hope_model.evaluate.facts import WRONG
from hope_model.evaluate.plot import new_figure
from hope_model.evaluate.recall import CONDITIONS, Distance, Judged, RecallResult
from hope_model.evaluate.tables import markdown_table

CHANCE = 1 / (1 + WRONG)
"""Accuracy of a reader that knows nothing."""


def write_recall(result: RecallResult, about: Mapping[str, Any], directory: Path) -> str:
    """Write ``recall.json``, ``recall.md`` and, with matplotlib, ``recall.png``; returns the Markdown.

    Args:
        about: what was measured and how, by name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        **about,
        "chance": CHANCE,
        "distances": [summary(each, result.repetition) for each in result.distances],
        "questions": [_record(each.windows, name, one) for each, name, one in _every(result)],
    }
    (directory / "recall.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = markdown(result, about)
    (directory / "recall.md").write_text(text, encoding="utf-8")
    _plot(result, directory / "recall.png")
    return text


def summary(distance: Distance, unadapted_repetition: float) -> dict[str, Any]:
    """One distance in figures: accuracies and free answers are shares, the rest is in nats."""
    found = {name: _means(distance.judged[name]) for name in CONDITIONS}
    on, off, ceiling = (found[name]["accuracy"] for name in CONDITIONS)
    kls = [session.kl for session in distance.sanity]
    repetitions = [session.repetition for session in distance.sanity]
    return {
        "windows": distance.windows,
        "tokens": distance.tokens,
        "questions": len(distance.judged["on"]),
        **found,
        "gap_closed": (on - off) / (ceiling - off) if ceiling > off else None,
        "sanity": {
            "sessions": len(kls),
            "kl": sum(kls) / len(kls),
            "kl_worst_session": max(kls),
            "repetition": sum(repetitions) / len(repetitions),
            "repetition_unadapted": unadapted_repetition,
        },
    }


def markdown(result: RecallResult, about: Mapping[str, Any]) -> str:
    """What was measured, and a table each for accuracy, likelihood and sanity."""
    rows = [summary(each, result.repetition) for each in result.distances]
    lines = ["# Recall of facts told once", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [
        f"Right answer ranked first of {1 + WRONG} (chance {CHANCE}):",
        "",
    ]
    lines += markdown_table(
        ("windows", "tokens", "questions", "on", "off", "ceiling", "gap closed"),
        [
            (
                f"{row['windows']:g}",
                f"{row['tokens']:.0f}",
                str(row["questions"]),
                *(f"{row[name]['accuracy']:.3f}" for name in CONDITIONS),
                "-" if row["gap_closed"] is None else f"{row['gap_closed']:.3f}",
            )
            for row in rows
        ],
    )
    lines += ["", "Log-likelihood in nats, and free answers that hold the fact:", ""]
    lines += markdown_table(
        ("windows", "condition", "right", "best wrong", "free answers"),
        [
            (
                f"{row['windows']:g}",
                name,
                *(f"{row[name][key]:.3f}" for key in ("right", "best_wrong", "free")),
            )
            for row in rows
            for name in CONDITIONS
        ],
    )
    lines += [
        "",
        "Sanity: unrelated prompts in fresh chats; KL to the unadapted model in nats per token:",
        "",
    ]
    lines += markdown_table(
        ("windows", "sessions", "KL", "KL of the worst session", "repetition", "repetition unadapted"),
        [
            (
                f"{row['windows']:g}",
                str(row["sanity"]["sessions"]),
                *(
                    f"{row['sanity'][key]:.4f}"
                    for key in ("kl", "kl_worst_session", "repetition", "repetition_unadapted")
                ),
            )
            for row in rows
        ],
    )
    return "\n".join(lines) + "\n"


def _means(judged: Sequence[Judged]) -> dict[str, float]:
    count = len(judged)
    return {
        "accuracy": sum(one.ranked_first for one in judged) / count,
        "right": sum(one.scores[0] for one in judged) / count,
        "best_wrong": sum(max(one.scores[1:]) for one in judged) / count,
        "free": sum(one.free for one in judged) / count,
    }


def _every(result: RecallResult) -> list[tuple[Distance, str, Judged]]:
    return [
        (each, name, one) for each in result.distances for name in CONDITIONS for one in each.judged[name]
    ]


def _record(windows: float, condition: str, one: Judged) -> dict[str, Any]:
    return {
        "windows": windows,
        "condition": condition,
        "person": one.person,
        "kind": one.kind,
        "scores": [round(score, 4) for score in one.scores],
        "free": one.free,
    }


def _plot(result: RecallResult, path: Path) -> None:
    figure = new_figure(6, 3.6)
    if figure is None:
        return
    axis = figure.subplots()
    for name in CONDITIONS:
        shares = [_means(each.judged[name])["accuracy"] for each in result.distances]
        axis.plot([each.tokens for each in result.distances], shares, marker="o", label=name)
    axis.axhline(CHANCE, color="grey", linestyle=":", label="chance")
    axis.set(xlabel="tokens between telling and asking", ylabel="right answer first", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=110)
