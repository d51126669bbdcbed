"""Where sessions live: commits, snapshots, restores, leases."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from hope_dashboards.board import Line, board, graph, number, quantiles, spread
from hope_dashboards.queries import gauge, quantile, rate

SHARES = (0.5, 0.99)
OK = 'result="ok"'


def dashboard() -> Dashboard:
    """What the servers ask of Redis, and what they wait for."""
    return board(
        "hope-store",
        "Hope: store",
        "Commits, snapshots, restores and leases of sessions in Redis.",
        {
            "Now": _now(),
            "Commits": _commits(),
            "Snapshots and restores": _snapshots(),
            "Sessions": _sessions(),
        },
    )


def _now() -> list[Builder[Panel]]:
    return [
        number(
            "Commits", rate("state_commit_total", where=OK), unit="wps", about="Per second; each is on disk."
        ),
        number(
            "Commit, p99",
            quantile(0.99, "state_commit_seconds"),
            unit="s",
            about="A token waits for its commit before it is sent.",
            warn_from=0.25,
        ),
        number(
            "Commits that fail",
            rate("state_commit_total", where='result="error"'),
            unit="wps",
            about="The store did not answer, or not in time.",
            warn_from=0.01,
        ),
        number(
            "Restore, p95",
            quantile(0.95, "state_load_seconds"),
            unit="s",
            about="To bring a session to the device: read, decode, replay.",
            warn_from=5,
        ),
        number(
            "Snapshots that fail",
            rate("state_save_failures_total"),
            unit="wps",
            about="The journal still holds the session; restores take longer.",
            warn_from=0.01,
        ),
        number(
            "Leases held",
            gauge("session_leases_held"),
            unit="none",
            about="Sessions that a worker may write.",
        ),
    ]


def _commits() -> list[Builder[Panel]]:
    return [
        graph(
            "Commits by result",
            Line(rate("state_commit_total", by="result"), "{{result}}"),
            unit="wps",
            about="conflict: the journal stood elsewhere than expected; fenced: another worker has it.",
            stacked=True,
        ),
        graph(
            "Length of a commit",
            *quantiles("state_commit_seconds", *SHARES),
            unit="s",
            about="With appendfsync always it holds one write-through to the disk.",
        ),
        spread(
            "Commits, all",
            rate("state_commit_seconds_bucket", by="le"),
            unit="s",
            about="How the commits' times are distributed.",
        ),
    ]


def _snapshots() -> list[Builder[Panel]]:
    return [
        graph(
            "Snapshots",
            Line(rate("state_save_seconds_count"), "written"),
            Line(rate("state_save_failures_total"), "failed"),
            unit="wps",
            about="Of sessions that reached a boundary.",
        ),
        graph(
            "Length of a snapshot",
            *quantiles("state_save_seconds", *SHARES),
            unit="s",
            about="Beside the turns, not in their way.",
        ),
        graph(
            "Bytes of snapshots",
            Line(rate("state_saved_bytes_total"), "written"),
            unit="Bps",
            about="Levels that did not change since the snapshot before are not written again.",
        ),
        graph(
            "Restores",
            Line(rate("state_load_seconds_count"), "restores"),
            unit="ops",
            about="Sessions that were not on the device when their turn came.",
        ),
        graph(
            "Length of a restore",
            *quantiles("state_load_seconds", *SHARES),
            unit="s",
            about="Part of the time to first token.",
        ),
        graph(
            "Tokens replayed for a restore",
            Line(f"{rate('state_replayed_tokens_total')} / {rate('state_load_seconds_count')}", "mean"),
            unit="none",
            about="Fewer than a block while snapshots succeed.",
        ),
    ]


def _sessions() -> list[Builder[Panel]]:
    return [
        graph(
            "Leases",
            Line(rate("session_leases_total", by="outcome"), "{{outcome}}"),
            unit="ops",
            about="refused: another worker is in a turn of the session; lost: taken, or not renewed in time.",
        ),
        graph(
            "Leases held",
            Line(gauge("session_leases_held", by="instance"), "{{instance}}"),
            unit="none",
            about="By worker: sessions in a turn.",
        ),
        graph(
            "Idle sessions that gave their slot away",
            Line(rate("session_evictions_total"), "evictions"),
            unit="ops",
            about="Many, with many restores: more sessions are active than there are slots.",
        ),
        graph(
            "States in the host's memory",
            Line(gauge("host_state_bytes", by="instance"), "{{instance}}"),
            unit="bytes",
            about="Of sessions that had to leave the device.",
        ),
        graph(
            "Sessions looked for in the host's memory",
            Line(rate("host_state_lookups_total", by="result"), "{{result}}"),
            Line(rate("host_state_evictions_total"), "given up"),
            unit="ops",
            about="A hit goes on without the store. Many given up: raise host_state_bytes.",
        ),
        graph(
            "What is done to sessions",
            Line(rate("session_operations_total", by="operation"), "{{operation}}"),
            unit="ops",
            about="By operation.",
        ),
        graph(
            "Tokens of a commit",
            Line(
                f"({rate('prompt_tokens_total')} + {rate('generation_tokens_total')})"
                f" / {rate('state_commit_total', where=OK)}",
                "mean",
            ),
            unit="none",
            about="Tokens that are sampled while a commit is in flight go together into the next one.",
        ),
    ]
