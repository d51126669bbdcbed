"""What is below deploy/, and the series that a server really exports."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from hope_server.engine.request import EngineStats
from hope_server.gauges import Connections
from hope_server.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
SERIES = re.compile(r"(?<![\w:])(?:(?:hope|instance|model|level):[\w:]+|process_\w+|up)\b")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


class Query(NamedTuple):
    """A query and where it stands: dashboard and panel, or the rule's name."""

    where: str
    expr: str

    @property
    def series(self) -> set[str]:
        """The series that it names."""
        return set(SERIES.findall(self.expr))


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def dashboards() -> dict[str, dict[str, Any]]:
    """Each committed dashboard by its file's name."""
    return {
        path.name: json.loads(path.read_text()) for path in (DEPLOY / "grafana/dashboards").glob("*.json")
    }


@pytest.fixture(scope="session")
def panel_queries(dashboards: dict[str, dict[str, Any]]) -> list[Query]:
    """Every query of every panel."""
    return [
        Query(f"{name}: {panel['title']} {target['refId']}", target["expr"])
        for name, board in dashboards.items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.fixture(scope="session")
def rules() -> dict[str, dict[str, Any]]:
    """Every rule by the name of its alert or of what it records."""
    files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture(scope="session")
def rule_queries(rules: dict[str, dict[str, Any]]) -> list[Query]:
    return [Query(name, rule["expr"]) for name, rule in rules.items()]


@pytest.fixture(scope="session")
def exported() -> set[str]:
    """Names of all series that a server registers, and the one that Prometheus makes for it."""
    metrics = Metrics(
        model_name="m", levels={"phi": 1}, window_tokens=64, state_bytes=1, slow_weights_sha256="0" * 64
    )
    metrics.watch(EngineStats)
    metrics.watch_connections(lambda: Connections(0, 1))
    families = metrics.registry.collect()
    return {"up"} | {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
