"""Result files: what is broken is named, nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.model.experiment.conftest import made_result

from hope_model.errors import ExperimentError
from hope_model.experiment.plan import ALL
from hope_model.experiment.results import read_results, write_result


def test_results_are_read_by_name(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none") == {}
    for name in ("hope", "retnet"):
        write_result(tmp_path, ALL[name], made_result(name, 5.0))
    found = read_results(tmp_path)
    assert found == {name: made_result(name, 5.0) for name in ("hope", "retnet")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hope.json", "retnet.json"]


def test_a_result_is_never_replaced(tmp_path: Path) -> None:
    path = write_result(tmp_path, ALL["hope"], made_result("hope", 5.0))
    before = path.read_bytes()
    with pytest.raises(ExperimentError, match=r"hope.json: expected no result yet, found one"):
        write_result(tmp_path, ALL["hope"], made_result("hope", 4.0))
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["hope.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected JSON, found Expecting property name"),
        ("[]", "expected an object, found list"),
        ("{}", "run: expected dict, found NoneType"),
        ({"learning_rate": "fast"}, "learning_rate: expected float, found str"),
        ({"loss": None}, "loss: expected list, found NoneType"),
        ({"run": {"name": "retnet"}}, "expected the result of run 'hope', found 'retnet'"),
        (
            {"evaluation": {}},
            "evaluation: expected heldout, streams, levels, recall, tasks, found none of heldout",
        ),
    ],
)
def test_a_broken_result_is_named(tmp_path: Path, content: str | dict[str, Any], said: str) -> None:
    if isinstance(content, dict):
        content = json.dumps(made_result("hope", 5.0, content))
    (tmp_path / "hope.json").write_text(content)
    with pytest.raises(ExperimentError) as caught:
        read_results(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'hope.json'}: {said}")
    assert caught.value.code == "experiment_invalid"


def test_a_result_of_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "hop.json").write_text(json.dumps(made_result("hope", 5.0)))
    with pytest.raises(ExperimentError, match=r"hop.json: expected the result of run 'hop'"):
        read_results(tmp_path)


def test_results_of_two_settings_are_not_mixed(tmp_path: Path) -> None:
    write_result(tmp_path, ALL["hope"], made_result("hope", 5.0))
    other = made_result("retnet", 5.0)
    other["fingerprint"]["settings"]["tokens"] += 80
    write_result(tmp_path, ALL["retnet"], other)
    with pytest.raises(
        ExperimentError,
        match=r"retnet.json: expected the settings of hope.json; settings.tokens: expected 640",
    ):
        read_results(tmp_path)
