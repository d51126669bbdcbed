"""The plan: equal sizes, an order that gives results early, names that lead to runs."""

from __future__ import annotations

import pytest

from hope_model.errors import ConfigError
from hope_model.experiment import paper
from hope_model.experiment.cost import TOKENS_PER_CPU_S, core_hours
from hope_model.experiment.plan import (
    ABLATIONS,
    ALL,
    PAIRS,
    SIZES,
    SYSTEMS,
    chosen,
    schedule,
    seed_runs,
    top_systems,
)
from hope_model.experiment.settings import ExperimentSettings
from hope_model.matching import count_parameters
from hope_model.rules import RULES

LOSSES = {run.name: 5.0 - number / 10 for number, run in enumerate(SYSTEMS)}


@pytest.mark.parametrize(
    "run", [run for run in ALL.values() if run.group != "seed"], ids=lambda run: run.name
)
def test_every_run_has_the_planned_count_of_parameters(run) -> None:  # type: ignore[no-untyped-def]
    config = ExperimentSettings().training(run, 1e-3, tuning=False).hope_config()
    assert abs(count_parameters(config) - run.parameters) <= 0.03 * run.parameters
    assert config.rule == run.rule
    assert bool(config.levels) == (run.levels == "config")


def test_the_plan_holds_what_the_paper_compares() -> None:
    assert {run.name for run in SYSTEMS} == {*paper.TABLE_2, "gated_deltanet"}
    assert [column for column, _, _ in PAIRS] == list(paper.TABLE_6)
    assert {name for _, *pair in PAIRS for name in pair} == {"hope", *(run.name for run in ABLATIONS)}
    assert {run.rule for run in ALL.values()} == TOKENS_PER_CPU_S.keys() <= {*RULES}


@pytest.mark.parametrize(("column", "with_it", "without"), PAIRS)
def test_a_pair_of_the_ablations_differs_in_one_thing(column: str, with_it: str, without: str) -> None:
    one, other = ALL[with_it].to_dict(), ALL[without].to_dict()
    names = {"name", "title", "group"}
    changed = {key for key in one if one[key] != other[key]} - names
    assert len(changed) == 1
    assert {ALL[with_it].options, ALL[without].options} & {""}


def test_runs_of_one_size_read_the_same_tokens_in_the_same_order() -> None:
    settings = ExperimentSettings()
    assert settings.tokens >= 4_000_000
    trained = [settings.training(run, 1e-3, tuning=False) for run in (*SYSTEMS, *ABLATIONS, *SIZES)]
    assert len({(s.tokens, s.rows, s.window, s.seed, s.reset_probability) for s in trained}) == 1


def test_systems_come_first_and_seeds_when_it_is_known_who_is_best() -> None:
    before = schedule({})
    assert before[: len(SYSTEMS)] == SYSTEMS
    assert not any(run.group == "seed" for run in before)
    assert top_systems({**LOSSES, "hope": 0.0})[0].name == "hope"
    best = top_systems(LOSSES)
    assert [run.name for run in best] == ["samba", "rwkv7", "dla"]
    after = schedule(LOSSES)
    seeds = after[len(SYSTEMS) : len(SYSTEMS) + 6]
    assert seeds == tuple(run for system in best for run in seed_runs(system))
    assert [run.seed for run in seeds] == [2, 3] * 3
    assert len({run.name for run in after}) == len(after) == len(before) + 6


def test_runs_are_chosen_by_name() -> None:
    assert [run.name for run in chosen(["hope-seed-3", "retnet", "hope-seed-3"])] == ["hope-seed-3", "retnet"]
    with pytest.raises(ConfigError, match=r"expected one of transformer, .*, found 'hop'"):
        chosen(["hop"])


def test_hours_grow_with_the_tokens_and_the_parameters() -> None:
    base, large = ALL["hope"], ALL["hope-large"]
    hours = core_hours([base], ExperimentSettings())
    assert core_hours([base, large], ExperimentSettings()) == pytest.approx(3 * hours)
    assert core_hours(seed_runs(base), ExperimentSettings()) < 2 * hours
    assert core_hours([base], ExperimentSettings(tokens=8_388_608)) > 1.5 * hours


@pytest.mark.parametrize(
    "rates", [(), (0.0, 1e-3), (-1e-3,), (2e-3, 1e-3), (1e-3, 1e-3), (1e-3, 2e-3, 3e-3)], ids=str
)
def test_rates_ascend_by_equal_factors(rates: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected rates that ascend by equal factors"):
        ExperimentSettings(rates=rates)
    assert ExperimentSettings(rates=(1e-3, 3e-3, 9e-3, 2.7e-2)).rates[-1] == 2.7e-2
