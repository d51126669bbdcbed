"""Making runs: the whole way in small, resuming, and refusing what was made otherwise."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.experiment.conftest import made_result
from tests.model.experiment.tiny import PARAMETERS, SETTINGS, opened, words

from hope_model.errors import DataError, ExperimentError, TrainError
from hope_model.experiment import runner
from hope_model.experiment.cli import make_all
from hope_model.experiment.plan import ALL, Run, chosen
from hope_model.experiment.results import Result, write_result
from hope_model.experiment.runner import Places
from hope_model.experiment.settings import ExperimentSettings
from hope_model.train.resume import load_weights

ROOT = Path(__file__).parents[3]


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _figures(result: Result) -> Result:
    """What does not depend on the machine's speed."""
    return {key: value for key, value in result.items() if key not in ("seconds", "tokens_per_cpu_s")}


def _unmeasured(*arguments: object) -> dict[str, object]:
    return {"heldout": {"loss": 1.0}, "streams": {}, "levels": [], "recall": {}, "tasks": {}}


def _finished(places: Places) -> None:
    """A result as if a run had been made."""
    experiment = opened(places)
    result = made_result("retnet", 5.0, {"fingerprint": experiment.fingerprint})
    write_result(places.results, ALL["retnet"], result)


def test_a_run_is_tuned_trained_and_measured(places: Places) -> None:
    experiment = opened(places)
    make_all(experiment, chosen(["hope"]))
    own = experiment.results()["hope"]
    assert set(own["tuning"]) > {"0.001", "0.004"}  # of two rates the best is always an end
    assert f"{own['learning_rate']:g}" == min(own["tuning"], key=own["tuning"].get)
    assert abs(own["parameters"] - PARAMETERS) <= 0.03 * PARAMETERS
    assert [tokens for tokens, _ in own["loss"]] == list(range(80, 641, 80))
    evaluation = own["evaluation"]
    assert {"gutenberg_adult", "gutenberg_child"} < set(evaluation["heldout"]["sets"])
    assert evaluation["streams"]["ends"] == [160]
    frequencies = {level["name"]: level["frequency"] for level in evaluation["levels"]}
    assert frequencies == {"phi": 1.0, "projections": 1 / 8, "cms-8": 1 / 8, "cms-32": 1 / 32}
    assert set(evaluation["recall"]["saved"]) == {"0", "20"}
    assert set(evaluation["tasks"]) == {"wikitext", *SETTINGS.evaluation.rows}
    assert ExperimentSettings.from_dict(own["fingerprint"]["settings"]) == replace(
        SETTINGS, save_every=ExperimentSettings().save_every
    )
    before = _tree(places.results)
    make_all(experiment, chosen(["hope"]))
    assert _tree(places.results) == before


def test_a_killed_run_goes_on_as_if_it_had_not_been(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "evaluate", _unmeasured)
    opened(places).make(ALL["retnet"])
    whole = opened(places).results()["retnet"], load_weights(places.work / "runs/retnet/train")
    for folder in (places.work, places.results):
        shutil.rmtree(folder)
    command = [
        sys.executable,
        "-m",
        "tests.model.experiment.killed_child",
        str(places.work.parent),
        "retnet",
        "7",
    ]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == -signal.SIGKILL
    run = places.work / "runs/retnet/train"
    assert json.loads((run / "latest.json").read_text())["step"] == 4
    assert not places.results.exists()
    assert opened(places).make(ALL["retnet"])
    assert _figures(opened(places).results()["retnet"]) == _figures(whole[0])
    weights = load_weights(run)
    assert weights.keys() == whole[1].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[1].items())


def test_further_seeds_take_the_first_ones_rate(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = opened(places)
    monkeypatch.setattr(runner, "evaluate", _unmeasured)
    make_all(experiment, chosen(["retnet-seed-2", "retnet"]))
    first, second = experiment.results()["retnet"], experiment.results()["retnet-seed-2"]
    assert (first["learning_rate"], first["tuning"]) == (second["learning_rate"], second["tuning"])
    assert first["loss"] != second["loss"]
    assert not list((places.work / "runs/retnet-seed-2").glob("tune-*"))


def test_a_rate_that_leaves_the_finite_numbers_is_not_taken(places: Places) -> None:
    settings = replace(SETTINGS, rates=(1e-3, 1e38))
    experiment = opened(places, settings)
    rate, tried = experiment._rate(ALL["retnet"])
    assert rate == 1e-3
    assert tried["1e+38"] is None
    only = opened(replace(places, work=places.work / "other"), replace(SETTINGS, rates=(1e38,)))
    with pytest.raises(ExperimentError, match=r"retnet: expected a rate of \(1e\+38,\) to train, found none"):
        only._rate(ALL["retnet"])


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff{garbage\n" * 20,
        b"[2]\n",
        b'{"step": 1, "loss": 2.0}\n',
        b'{"step": 2, "loss": 2.0}\n' * 2,
    ],
)
def test_a_log_that_is_lost_or_broken_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises((ExperimentError, TrainError), match=r"log\.jsonl: .*; remove "):
        runner.steps_of(tmp_path, 2)


def test_a_run_that_another_process_has_in_hand_is_left_alone(places: Places) -> None:
    experiment = opened(places)
    with runner._locked(places.work / "runs/retnet/lock", wait=False) as free:
        assert free
        assert not experiment.make(ALL["retnet"])
    assert not places.results.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": 48}, "settings.window: expected 48, found 40"),
        ({"tokens": 720}, "expected text split from these shards with these settings"),
        ({"rates": (1e-3,)}, r"settings.rates: expected \[0.001\], found \[0.001, 0.004\]"),
        (
            {"evaluation": replace(SETTINGS.evaluation, articles=2)},
            "settings.evaluation.articles: expected 2, found 1",
        ),
    ],
)
def test_changed_settings_are_refused_and_nothing_is_written(
    places: Places, changes: dict[str, object], said: str
) -> None:
    _finished(places)
    before = _tree(places.work), _tree(places.results)
    changed = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    with pytest.raises((ExperimentError, DataError), match=said):
        opened(places, changed)
    assert (_tree(places.work), _tree(places.results)) == before
    elsewhere = replace(places, work=places.work.parent / "elsewhere")
    with pytest.raises(ExperimentError, match=r"retnet.json: made with other settings, nothing was run"):
        opened(elsewhere, changed)
    assert (_tree(places.work), _tree(places.results)) == before


def test_changed_text_is_refused(places: Places) -> None:
    opened(places)
    part = places.work / "text/gutenberg_adult.train.jsonl.zst"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"gutenberg_adult.train.jsonl.zst: expected the text as it was split"
    ):
        opened(places)


def test_a_changed_shard_is_refused(places: Places) -> None:
    opened(places)
    (places.kit / "streams/gutenberg_darwin.txt").write_text(words(300, "another"))
    with pytest.raises(ExperimentError, match=r"files.streams/gutenberg_darwin.txt: expected '[0-9a-f]{64}'"):
        opened(places)


def test_a_changed_plan_is_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    _finished(places)
    monkeypatch.setitem(ALL, "retnet", replace(ALL["retnet"], parameters=PARAMETERS + 1))
    with pytest.raises(ExperimentError, match=r"retnet.json: made with other settings.*run.parameters"):
        opened(places)


def test_a_missing_kit_is_said_before_anything_is_done(places: Places) -> None:
    with pytest.raises(DataError, match=r"expected the files streams/gutenberg_darwin.txt, "):
        opened(replace(places, kit=places.kit / "none"))
    assert not places.work.exists()


def test_a_run_that_cannot_be_trained_does_not_stop_the_others(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = opened(places)
    made: list[str] = []

    def make(run: Run) -> None:
        made.append(run.name)
        if run.name == "retnet":
            raise TrainError("step 7: expected a finite loss")

    monkeypatch.setattr(experiment, "make", make)
    with pytest.raises(TrainError, match="step 7"):
        make_all(experiment, chosen(["retnet", "dla"]))
    assert made == ["retnet", "dla"]


def test_a_point_of_the_loss_curve_is_the_mean_since_the_one_before() -> None:
    assert runner.thinned([(10, 1.0), (20, 3.0), (30, 5.0)], 2) == [[20, 2.0], [30, 5.0]]


@given(
    best=st.floats(-9, 9),
    count=st.integers(1, 4),
    finite_up_to=st.floats(-9, 9),
)
def test_the_rate_is_not_an_end_of_those_tried(best: float, count: int, finite_up_to: float) -> None:
    """Of a loss with one lowest point, unless it lies further out than one looks."""

    def loss_at(rate: float) -> float | None:
        return None if math.log2(rate) > finite_up_to else abs(math.log2(rate) - best)

    rates = [2.0**power for power in range(count)]
    rate, losses = runner.tuned(rates, loss_at)
    assert set(rates) <= losses.keys()
    finite = {rate: loss for rate, loss in losses.items() if loss is not None}
    assert (None if rate is None else finite[rate]) == min(finite.values(), default=None)
    assert len(losses) <= count + runner.FURTHER
    if rate in (min(losses), max(losses)):
        assert count == 1 or len(losses) == count + runner.FURTHER
