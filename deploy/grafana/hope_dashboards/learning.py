"""What sessions learn: whether each level writes as often as it should, how much, and how far it moved."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from hope_dashboards.board import Line, bars, board, graph, number, quantiles, spread
from hope_dashboards.queries import MODEL, gauge, rate

MEASURED = f"avg by (level) (hope:level_update_frequency{{{MODEL}}})"
CONFIGURED = f"1 / max by (level) (hope:level_period_tokens{{{MODEL}}})"
SHARES = (0.5, 0.95)


def dashboard() -> Dashboard:
    """The levels of all sessions together; one session's are at /v1/sessions/{id}/levels."""
    return board(
        "hope-learning",
        "Hope: learning",
        "Update frequencies, update norms, drift and refused updates of the levels that learn.",
        {"Now": _now(), "Level spectrum": _spectrum(), "Updates and drift": _updates(), "Safety": _safety()},
    )


def _now() -> list[Builder[Panel]]:
    refused = rate("level_updates_refused_total")
    return [
        number(
            "Slow weights",
            f"min(hope:slow_weights_ok{{{MODEL}}})",
            unit="none",
            about="1: they matched their hash when it was last computed.",
            warn_below=1,
        ),
        number(
            "Tokens learned from", rate("level_tokens_total"), unit="none", about="Per second, over levels."
        ),
        number("Writes", rate("level_updates_total"), unit="none", about="Per second, over levels."),
        number(
            "Updates refused",
            f"({refused}) / ({refused} + {rate('level_updates_total')})",
            unit="percentunit",
            about="Of all updates, those that the guards left out.",
            warn_from=0.01,
        ),
        number(
            "Non-finite states",
            f"sum(increase(hope:corrupted_requests_total{{{MODEL}}}[1h]))",
            unit="none",
            about="Results that were not finite within the last hour.",
            warn_from=1,
        ),
        number(
            "Bytes of a session",
            f"max(hope:session_state_bytes{{{MODEL}}})",
            unit="bytes",
            about="Of its state on the device.",
        ),
    ]


def _spectrum() -> list[Builder[Panel]]:
    return [
        graph(
            "Frequency of each level: measured and declared",
            Line(MEASURED, "{{level}}"),
            Line(CONFIGURED, "{{level}} declared"),
            unit="none",
            about="Writes per token, counted over the last tokens, and one over the period that the model "
            "declares. Sessions that are thrown away before a period is over keep the measured one below.",
            width=16,
            logarithmic=True,
        ),
        bars(
            "Measured / declared",
            Line(f"({MEASURED}) / ({CONFIGURED})", "{{level}}"),
            unit="percentunit",
            about="1: the level writes exactly as often as the model declares. More is a fault.",
            most=1.25,
        ),
        graph(
            "Writes",
            Line(rate("level_updates_total", by="level"), "{{level}}"),
            unit="wps",
            about="Per second.",
            logarithmic=True,
        ),
        graph(
            "Tokens read",
            Line(rate("level_tokens_total", by="level"), "{{level}}"),
            unit="none",
            about="Per second; those of restored sessions are not counted again.",
        ),
        graph(
            "Frequency now",
            Line(
                f"({rate('level_updates_total', by='level')}) / ({rate('level_tokens_total', by='level')})",
                "{{level}}",
            ),
            unit="none",
            about="Writes per token within the last minutes.",
            logarithmic=True,
        ),
    ]


def _updates() -> list[Builder[Panel]]:
    return [
        graph(
            "Update norm",
            *quantiles("level_update_norm", *SHARES, by="level"),
            unit="none",
            about="Norm of what one block changed in a level, of one session.",
            width=12,
            logarithmic=True,
        ),
        graph(
            "Drift",
            *quantiles("session_drift_ratio", *SHARES, by="level"),
            unit="none",
            about="Distance of a session's level from its initial state, over the norm of its reference. It "
            "should level off, not grow with the length of the session.",
            width=12,
        ),
        spread(
            "Update norms",
            rate("level_update_norm_bucket", by="le"),
            unit="none",
            about="How the norms are distributed, over levels.",
            width=12,
        ),
        spread(
            "Drift ratios",
            rate("session_drift_ratio_bucket", by="le"),
            unit="none",
            about="How far sessions are from where they began, over levels.",
            width=12,
        ),
    ]


def _safety() -> list[Builder[Panel]]:
    refused = rate("level_updates_refused_total", by="level")
    return [
        graph(
            "Updates refused",
            Line(f"({refused}) / ({refused} + {rate('level_updates_total', by='level')})", "{{level}}"),
            unit="percentunit",
            about="Not finite, or beyond a canary, so left out and counted in the state.",
        ),
        graph(
            "Rows that could not go on",
            Line(rate("corrupted_requests_total"), "non-finite results"),
            Line(rate("session_reloads_total"), "made again from the store"),
            Line(rate("learning_rollbacks_total"), "learning ended"),
            unit="reqps",
            about="Of sessions, which all go on from their journals.",
        ),
        graph(
            "Learning ended, by reason",
            Line(rate("learning_rollbacks_total", by="reason"), "{{reason}}"),
            unit="ops",
            about="Sessions whose writes were refused again and again: they keep their last good state.",
        ),
        graph(
            "Sessions that learn no more",
            Line(gauge("sessions_frozen", by="instance"), "{{instance}}"),
            unit="none",
            about="On the device, by worker. They answer as before.",
        ),
        spread(
            "Canary divergence",
            rate("canary_divergence_nats_bucket", by="le"),
            unit="none",
            about="How far judged writes moved the answers to a canary text, in nats.",
        ),
        graph(
            "Slow weights as they were hashed",
            Line(gauge("slow_weights_ok", by="instance"), "{{instance}}"),
            unit="none",
            about="0: the frozen weights have changed in memory.",
        ),
    ]
