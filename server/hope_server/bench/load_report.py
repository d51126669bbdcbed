"""What a load test's samples come to: JSON, a table, and a plot where matplotlib is installed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hope_server.bench.answer import Sample
from hope_server.bench.figures import SHARES, summary

LATENCIES = {
    "ttft_s": "time to first token",
    "inter_token_s": "between two pieces of text",
    "time_per_output_token_s": "time per further token",
    "e2e_s": "whole answer",
    "start_delay_s": "sent later than due",
}


def report(samples: Sequence[Sample], *, warm_up: int) -> dict[str, Any]:
    """Of the requests after the first ``warm_up``: counts, errors by code, throughput, latencies.

    Latencies are those of whole answers, in seconds from the moment at which a request was due.
    """
    measured = [sample for sample in samples if sample.index >= warm_up]
    whole = [sample for sample in measured if sample.error is None]
    errors = Counter(sample.error for sample in measured if sample.error is not None)
    seconds = max((s.end_s for s in measured), default=0.0) - min((s.sent_s for s in measured), default=0.0)
    output, prompt = sum(s.output_tokens for s in whole), sum(s.prompt_tokens for s in whole)
    per_s = (lambda count: count / seconds) if seconds else (lambda count: 0.0)
    return {
        "requests": {"measured": len(measured), "warm_up": len(samples) - len(measured), "whole": len(whole)},
        "errors": dict(sorted(errors.items())),
        "duration_s": seconds,
        "peak_in_flight": _peak(measured),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "throughput": {
            "requests_per_s": per_s(len(whole)),
            "output_tokens_per_s": per_s(output),
            "total_tokens_per_s": per_s(output + prompt),
        },
        "latency": {name: summary(values) for name, values in latencies(whole).items()},
    }


def latencies(whole: Sequence[Sample]) -> dict[str, list[float]]:
    """Every measured duration by name."""
    gaps = [late - early for s in whole for early, late in itertools.pairwise(s.text_s)]
    return {
        "ttft_s": [s.text_s[0] - s.due_s for s in whole if s.text_s],
        "inter_token_s": gaps,
        "time_per_output_token_s": [
            (s.end_s - s.text_s[0]) / (s.output_tokens - 1) for s in whole if s.text_s and s.output_tokens > 1
        ],
        "e2e_s": [s.end_s - s.due_s for s in whole],
        "start_delay_s": [s.sent_s - s.due_s for s in whole],
    }


def table(found: dict[str, Any]) -> str:
    """As Markdown, in milliseconds."""
    counts, rates = found["requests"], found["throughput"]
    lines = [
        f"{counts['whole']} of {counts['measured']} answers whole in {found['duration_s']:.1f} s "
        f"(after {counts['warm_up']} to warm up, {found['peak_in_flight']} at once at most): "
        f"{rates['requests_per_s']:.2f} requests/s, {rates['output_tokens_per_s']:.1f} tokens/s generated, "
        f"{rates['total_tokens_per_s']:.1f} with prompts",
        *(f"error {code}: {count}" for code, count in found["errors"].items()),
        "",
        "| ms | mean | " + " | ".join(f"p{share}" for share in SHARES) + " | max |",
        "|---|" + "---|" * (len(SHARES) + 2),
    ]
    for name, label in LATENCIES.items():
        if (figures := found["latency"][name]) is not None:
            lines.append(
                f"| {label} | " + " | ".join(f"{1e3 * value:.1f}" for value in figures.values()) + " |"
            )
    return "\n".join(lines)


def plot(samples: Sequence[Sample], path: Path, *, warm_up: int) -> None:
    """Draw the distributions of the latencies, and generated pieces by second. Raises ImportError without
    matplotlib.
    """
    from matplotlib.figure import Figure

    whole = [sample for sample in samples if sample.index >= warm_up and sample.error is None]
    figure = Figure(figsize=(11, 4), layout="constrained")
    shares, course = figure.subplots(1, 2)
    for name in ("ttft_s", "inter_token_s", "e2e_s"):
        values = sorted(1e3 * value for value in latencies(whole)[name])
        shorter = [100 * (rank + 1) / len(values) for rank in range(len(values))]
        shares.step(values, shorter, label=LATENCIES[name])
    shares.set(xscale="log", xlabel="ms", ylabel="% of them are shorter", title="latency")
    start = min((sample.sent_s for sample in whole), default=0.0)
    counts = Counter(int(moment - start) for sample in whole for moment in sample.text_s)
    course.step(range(len(counts)), [counts[second] for second in range(len(counts))], where="post")
    course.set(xlabel="s", ylabel="pieces of text a second", title="throughput", ylim=(0, None))
    for axes in (shares, course):
        axes.grid(alpha=0.3)
    shares.legend()
    figure.savefig(path, dpi=120)


def _peak(samples: Sequence[Sample]) -> int:
    """Requests in flight at once at most."""
    changes = sorted([(s.sent_s, 1) for s in samples] + [(s.end_s, -1) for s in samples])
    return max(itertools.accumulate((change for _, change in changes)), default=0)
