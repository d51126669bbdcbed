"""The report from results: their figures, nothing for what is missing, and what they say of the paper."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.model.experiment.conftest import made_result

from hope_model.experiment import report, tables
from hope_model.experiment.figures import STUDENT, noise_of, repeated, slope, verdict
from hope_model.experiment.findings import findings
from hope_model.experiment.plan import ABLATIONS, ALL, SIZES, SYSTEMS, seed_runs
from hope_model.experiment.report import write_report
from hope_model.experiment.results import Result, write_result

SEEDED = {"hope": 5.0, "hope-seed-2": 5.01, "hope-seed-3": 4.99}


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take half a second each."""
    monkeypatch.setattr(report, "draw_all", lambda results, folder: [])


def _results(losses: Mapping[str, float]) -> dict[str, Result]:
    return {name: made_result(name, loss) for name, loss in losses.items()}


def _report(folder: Path, losses: Mapping[str, float]) -> str:
    for name, result in _results(losses).items():
        write_result(folder / "experiments/results", ALL[name], result)
    text = write_report(folder / "experiments/results", folder / "EXPERIMENTS.md")
    assert (folder / "EXPERIMENTS.md").read_text() == text
    return text


def _row(text: str, heading: str, start: str) -> list[str]:
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    line = next(line for line in section.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_without_results_nothing_is_claimed(tmp_path: Path) -> None:
    text = _report(tmp_path, {})
    assert "0 of 23 runs" in text
    assert "Hope is not run yet" in text
    assert _row(text, "Systems", "Hope")[1] == "not run yet"
    assert _row(text, "Ablations of Hope", "DGD")[3:5] == ["not run yet"] * 2
    assert not (tmp_path / "experiments/plots").exists()
    figures = text.partition("## What the figures say")[2].partition("## Ablations")[0]
    assert not re.search(r"\d\.\d\d", figures), "a figure without a result"


def test_figures_stand_beside_the_papers_and_missing_ones_are_said(unseen: None, tmp_path: Path) -> None:
    text = _report(tmp_path, {"hope": 5.0, "transformer": 5.2})
    assert "2 of 23 runs" in text
    systems = _row(text, "Systems", "Hope")
    assert systems[1:4] == ["5.000", "5.000", "5.250"]
    assert _row(text, "Systems", "RetNet")[1] == "not run yet"
    ours = _row(text, "Beside the paper's Table 2", "Hope")
    assert ours[1:5] == ["18.68 / 4,322", "20.07 / 1,234", "38.8 / 50.0", "69.2 / 50.0"]
    assert _row(text, "Beside the paper's Table 2", "RetNet")[-1] == "48.2 / not run yet"
    assert _row(text, "Recall", "Hope")[1:] == ["+1.50", "+0.75"]
    assert "not known yet" in text
    assert text.index("| Hope | 5.000") < text.index("| Transformer++ | 5.200")
    assert "640 tokens of the core mixture" in text, "settings come from the results"


def test_pictures_are_small_and_linked(tmp_path: Path) -> None:
    text = _report(tmp_path, {run.name: 5.0 + number / 10 for number, run in enumerate(SYSTEMS)})
    pictures = sorted((tmp_path / "experiments/plots").iterdir())
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 60_000
        assert f"(experiments/plots/{picture.name})" in text


def test_the_same_results_give_the_same_report(unseen: None, tmp_path: Path) -> None:
    first = _report(tmp_path / "a", SEEDED)
    assert _report(tmp_path / "b", SEEDED) == first


def test_a_whole_experiment_is_said_to_be_finished(unseen: None, tmp_path: Path) -> None:
    losses = {run.name: 5.0 + number / 10 for number, run in enumerate((*SYSTEMS, *ABLATIONS, *SIZES))}
    losses |= {run.name: 5.0 for system in SYSTEMS[:3] for run in seed_runs(system)}
    text = _report(tmp_path, losses)
    assert "29 of 29 runs" in text
    assert "About 0 of 1 hours" in text
    assert "not run yet" not in text.partition("## What the figures say")[2]


def test_noise_is_the_pooled_deviation_of_seeds() -> None:
    assert noise_of(_results({"hope": 5.0, "hope-seed-2": 5.1})) is None
    noise = noise_of(_results(SEEDED))
    assert noise is not None
    assert noise.deviation == pytest.approx(0.01)
    assert noise.difference == pytest.approx(0.0277, abs=1e-4)
    assert [verdict(difference, noise) for difference in (-0.03, -0.02, 0.03)] == [
        "lower",
        "within noise",
        "higher",
    ]
    assert verdict(-0.03, None) == "lower?"
    both = noise_of(_results({**SEEDED, "dla": 6.0, "dla-seed-2": 6.03, "dla-seed-3": 5.97}))
    assert both is not None
    assert both.deviation == pytest.approx((0.0001 / 2 + 0.0009 / 2) ** 0.5)


def test_systems_at_one_seed_are_compared_without_what_the_seed_does_to_all() -> None:
    """Seeds move both systems by up to 0.2; what is left is 0.001 to either side."""
    losses = {"hope": 5.001, "hope-seed-2": 5.1, "hope-seed-3": 5.199}
    losses |= {"dla": 6.0, "dla-seed-2": 6.101, "dla-seed-3": 6.202}
    noise = noise_of(_results(losses))
    assert noise is not None
    assert noise.freedom == 2
    # Differences 0.999, 1.001, 1.003: half of each one's distance from the mean, for two systems.
    assert noise.paired is not None
    assert noise.paired == pytest.approx((2 * 2 * 0.001**2 / 2) ** 0.5)
    assert noise.difference == pytest.approx(4.303 * 2**0.5 * noise.paired)
    assert noise.repetition > 0.2 > 10 * noise.difference
    assert verdict(-0.02, noise) == "lower"


def test_the_quantiles_are_students() -> None:
    """By the area under the density, which Simpson's rule sums."""
    for freedom, quantile in STUDENT.items():
        whole = math.sqrt(freedom * math.pi) * math.gamma(freedom / 2) / math.gamma((freedom + 1) / 2)
        steps = 2000
        heights = [
            (1 + (quantile * at / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for at in range(steps + 1)
        ]
        area = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
        assert 2 * area * quantile / steps / 3 / whole == pytest.approx(0.95, abs=1e-4)


def test_findings_say_what_agrees_and_what_does_not() -> None:
    losses = {
        **SEEDED,
        "transformer": 5.3,
        "titans": 4.8,
        "retnet": 5.02,
        "gated_deltanet": 5.4,
        "hope-no-dgd": 5.2,
        "hope-inner-q": 5.1,
    }
    results = _results(losses)
    said = findings(results, noise_of(results))
    assert "Agrees with the paper: Hope's loss is lower than that of Transformer++." in said
    assert "Does not agree: Hope's loss is higher than that of Titans." in said
    assert "Hope cannot be told from RetNet: the difference is within noise." in said
    beside = "of which the paper has no such figure, Hope's loss is lower (-0.400 nats)."
    assert f"Beside Gated DeltaNet, {beside}" in said
    assert "Ablation w/o DGD: +0.200 nats; the paper's perplexity is higher: agrees." in said
    assert "Ablation w/o inner projection q: -0.100 nats; the paper's perplexity is lower: agrees." in said
    assert any("(Spearman): +0.60 over 4 systems" in line for line in said)
    said = findings(results, None)
    expected = "Hope's loss is lower than that of RetNet, Transformer++ (noise not known yet)."
    assert f"Agrees with the paper: {expected}" in said


def test_the_slope_is_per_tenfold_parameters() -> None:
    results = _results({"hope-small": 5.4, "hope": 5.0, "hope-large": 4.6})
    for name, count in (("hope-small", 1_000_000), ("hope", 10_000_000), ("hope-large", 100_000_000)):
        results[name]["parameters"] = count
    found = slope(results, "hope")
    assert found is not None
    assert found[0] == pytest.approx(-0.4)
    assert slope(results, "transformer") is None


def test_a_repetition_is_judged_by_the_noise() -> None:
    first = _results({**SEEDED, "retnet": 5.5, "dla": 5.5})
    rows = {row.name: row for row in repeated(first, _results({"retnet": 5.52, "dla": 5.54}))}
    assert rows["retnet"].within
    assert not rows["dla"].within
    assert rows["dla"].text().endswith("5.5000 5.5400 +0.0400 nats, outside of the noise of 0.0277")
    unknown = repeated(_results({"dla": 5.5}), _results({"dla": 5.5}))
    assert not unknown[0].within
    assert "not known yet" in unknown[0].text()


def test_a_rate_that_only_another_run_tried_is_left_empty() -> None:
    one = made_result("retnet", 5.0, {"tuning": {"0.001": 7.0, "0.004": 6.0, "0.016": None}})
    table = tables.tuning({"retnet": one, "hope": made_result("hope", 5.0)})
    cells = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:5]]
        for row in table.splitlines()
    }
    assert cells["RetNet"] == ["7.000", "6.000", "not finite"]
    assert cells["Hope"] == ["7.000", "6.000", ""]
