"""Alerts name what the server exports, say what to do, and have a case of firing and of staying quiet."""

import re
from pathlib import Path
from typing import Any

import yaml

from hope_server.config import ServerConfig, flag

Query = Any  # its class lives in conftest, which tests cannot import
Rules = dict[str, dict[str, Any]]


def test_every_series_is_exported_or_recorded(
    rule_queries: list[Query], rules: Rules, exported: set[str]
) -> None:
    recorded = {name for name, rule in rules.items() if "record" in rule}
    for query in rule_queries:
        assert query.series, f"{query.where}: names no series"
        assert query.series <= exported | recorded, f"{query.where}: {query.series - exported}"


def test_everything_recorded_is_used(rule_queries: list[Query], rules: Rules) -> None:
    used = set().union(*(query.series for query in rule_queries))
    assert {name for name, rule in rules.items() if "record" in rule} <= used


def test_each_alert_says_how_bad_it_is_and_where_to_read_on(rules: Rules, deploy: Path) -> None:
    runbook = (deploy / "RUNBOOK.md").read_text()
    entries = dict(re.findall(r"^### (Hope\w+)\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL))
    alerts = {name: rule for name, rule in rules.items() if "alert" in rule}
    assert set(entries) == set(alerts)
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        notes = rule["annotations"]
        assert notes["summary"], name
        assert notes["description"].endswith("."), name
        assert notes["runbook_url"] == f"deploy/RUNBOOK.md#{name.lower()}"
        for part in ("**Means**", "**Look**", "**Do**"):
            assert part in entries[name], f"{name}: its entry has no {part}"


def test_the_runbook_names_panels_settings_and_series_that_exist(
    deploy: Path, dashboards: dict[str, dict[str, Any]], exported: set[str]
) -> None:
    runbook = (deploy / "RUNBOOK.md").read_text()
    panels = {panel["title"] for board in dashboards.values() for panel in board["panels"]}
    shown = panels | {board["title"] for board in dashboards.values()} | {"Targets"}  # Prometheus' own page
    settings = {flag(name) for name in ServerConfig.model_fields} | {"--no-learn"}
    for pattern, known in (
        (r"(?<!\*)\*([^*\n]+)\*(?!\*)", shown),
        (r"`(--[\w-]+)`", settings),
        (r"hope:\w+", exported),
    ):
        named = set(re.findall(pattern, runbook))
        assert named, pattern
        assert named <= known, named - known


def test_each_alert_has_a_case_where_it_fires_and_one_where_not(rules: Rules, deploy: Path) -> None:
    fired: dict[str, set[bool]] = {}
    for file in (deploy / "prometheus/tests").glob("*.yml"):
        for group in yaml.safe_load(file.read_text())["tests"]:
            for case in group["alert_rule_test"]:
                fired.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert fired == {name: {True, False} for name, rule in rules.items() if "alert" in rule}
