"""The committed dashboards are what the builder makes, whole, and ask for what the server exports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

Query = Any  # its class lives in conftest, which tests cannot import


def test_they_are_what_the_builder_makes(deploy: Path) -> None:
    command = [sys.executable, str(deploy / "grafana/make_dashboards.py"), "--check"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"run {command[1]}: {made.stderr}"


def test_every_series_is_exported(panel_queries: list[Query], exported: set[str]) -> None:
    assert panel_queries
    for query in panel_queries:
        assert query.series, f"{query.where}: names no series"
        assert query.series <= exported, f"{query.where}: {query.series - exported}"


def test_panels_are_whole(dashboards: dict[str, dict[str, Any]]) -> None:
    for name, board in dashboards.items():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        for panel in board["panels"]:
            if panel["type"] == "row":
                continue
            where = f"{name}: {panel['title']}"
            assert panel["description"].endswith("."), where
            refs = [target["refId"] for target in panel["targets"]]
            assert refs, where
            assert len(set(refs)) == len(refs), where
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"]), where


def test_every_query_follows_the_chosen_instance(panel_queries: list[Query]) -> None:
    for query in panel_queries:
        selectors = query.expr.count("{")
        assert query.expr.count('instance=~"$instance"') == selectors > 0, query.where


def test_no_dashboard_has_anothers_name(dashboards: dict[str, dict[str, Any]]) -> None:
    assert set(dashboards) == {"service.json", "learning.json", "store.json"}
    assert len({board["uid"] for board in dashboards.values()}) == len(dashboards)
