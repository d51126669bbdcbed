"""``hope eval task`` in its own process and against a server: the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from hope_server.cli import main

ROWS: dict[str, list[dict[str, Any]]] = {
    "piqa": [
        {"goal": f"To open jar {n}", "sol1": "turn the lid", "sol2": "eat the lid slowly", "label": n % 2}
        for n in range(5)
    ],
    "lambada": [{"text": f"The cat sat on the mat and the {word}"} for word in ("dog", "cat", "mat")],
}


@pytest.mark.parametrize("task", sorted(ROWS))
def test_a_server_and_the_model_itself_give_the_same_figures(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS[task]), encoding="utf-8")
    figures, nats = [], []
    for extra in ([], ["--url", server.url]):
        out, found = tmp_path / "figures.json", tmp_path / "found.jsonl"
        command = ["eval", "task", task, str(rows), "--batch", "2", "--json", str(out), "--rows", str(found)]
        assert main([*command, *extra]) == 0
        assert f"| {task} | value | ± |" in capsys.readouterr().out
        figures.append(json.loads(out.read_text(encoding="utf-8")))
        each = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
        assert [row["row"] for row in each] == list(range(len(ROWS[task])))
        nats.append([value for row in each for value in row["nats"]])
    own, served = ({name: x for name, x in one.items() if isinstance(x, float)} for one in figures)
    assert served == pytest.approx(own, rel=1e-4)
    assert nats[1] == pytest.approx(nats[0], abs=1e-4)
