"""What decode runs come to, beside the limit that memory bandwidth sets."""

import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hope_server.bench.decode import DecodeFigures, DecodeRun
from hope_server.bench.step_bytes import StepBytes


def decode_report(
    model: str, run: DecodeRun, runs: Sequence[DecodeFigures], moved: StepBytes, bandwidth: float
) -> dict[str, Any]:
    """Medians by number of sessions. ``bandwidth``: bytes per second that copying reads and writes."""
    counts = list(dict.fromkeys(found.sessions for found in runs))
    return {
        "model": model,
        "settings": asdict(run),
        "machine": platform.machine(),
        "copy_bandwidth_bytes_per_s": bandwidth,
        "weights_bytes": moved.weights,
        "session_bytes_per_token": moved.session,
        "decode": [
            _row([found for found in runs if found.sessions == count], moved.step(count), bandwidth)
            for count in counts
        ],
    }


def _row(runs: Sequence[DecodeFigures], moved: int, bandwidth: float) -> dict[str, float | int]:
    step_s = statistics.median(found.step_s for found in runs)
    return {
        "sessions": runs[0].sessions,
        "tokens_per_s": statistics.median(found.tokens_per_s for found in runs),
        "step_s": step_s,
        "step_p99_s": statistics.median(found.step_p99_s for found in runs),
        "step_bytes": moved,
        "bandwidth_fraction": moved / bandwidth / step_s,
    }


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    rows = found["decode"]
    kept = found["settings"]["quantize"]
    name = found["model"] if kept == "none" else f"{found['model']}, {kept}"
    lines = [
        f"{name}: slow weights {found['weights_bytes']:,} bytes a step, a session "
        f"{found['session_bytes_per_token']:,} bytes a token, copying "
        f"{found['copy_bandwidth_bytes_per_s'] / 1e9:.1f} GB/s",
        "",
        "| sessions | tokens/s | step, ms | p99 | step / the first's | fraction of the bandwidth limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['sessions']} | {row['tokens_per_s']:.1f} | {1e3 * row['step_s']:.2f} "
            f"| {1e3 * row['step_p99_s']:.2f} | {row['step_s'] / rows[0]['step_s']:.2f} "
            f"| {row['bandwidth_fraction']:.3f} |"
        )
    return "\n".join(lines)
