"""lm-eval's `local-completions` on local files: its scores are those of the model in this process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.server_process import ServerProcess

from hope_model.checkpoint import load_checkpoint, resolve
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

pytestmark = pytest.mark.clients

ROWS = {"kit_lambada": ("lm/lambada_openai_test.jsonl", 12), "kit_arc_easy": ("mc/arc_easy_test.jsonl", 6)}
TASKS = {
    "kit_lambada": """
task: kit_lambada
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: " {{target}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "kit_arc_easy": """
task: kit_arc_easy
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
}


@dataclass
class Local:
    """The shipped model in this process."""

    model: Hope
    tokenizer: Tokenizer

    @torch.inference_mode()
    def score(self, context: str, target: str) -> tuple[float, bool]:
        """Nats of `target` after `context`, and whether each of its tokens is the likeliest."""
        before = self.tokenizer.encode(context)
        after = self.tokenizer.encode(context + target)[len(before) :]
        logits, _ = self.model(torch.tensor([before + after]), self.model.initial_state(1))
        logprobs = logits[0, len(before) - 1 : -1].float().log_softmax(-1)
        wanted = torch.tensor(after)
        found = logprobs.gather(1, wanted[:, None])[:, 0]
        return float(found.sum()), bool((logprobs.argmax(-1) == wanted).all())


@pytest.fixture(scope="module")
def local() -> Local:
    model, tokenizer = load_checkpoint(resolve("hope-tiny"))
    assert isinstance(tokenizer, Tokenizer)
    return Local(model, tokenizer)


@pytest.fixture
def tasks(kit: Path, tmp_path: Path) -> Path:
    """lm-eval's task files, and the rows that they name."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, (file, count) in ROWS.items():
        lines = (kit / file).read_text().splitlines()[:count]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        text = TASKS[name].replace("FILE", str(folder / f"{name}.jsonl"))
        (folder / f"{name}.yaml").write_text(text)
    return folder


def evaluate(
    server: ServerProcess, tasks: Path, offline: dict[str, str], **arguments: object
) -> dict[str, Any]:
    """What lm-eval says of the server."""
    given = {"model": "hope-tiny", "base_url": f"{server.url}/v1/completions", **arguments}
    out = tasks.parent / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in given.items())),
            *("--include_path", str(tasks), "--tasks", ",".join(ROWS)),
            *("--output_path", str(out), "--log_samples", "--batch_size", "2"),
        ],
        env=offline,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = out.rglob("results_*.json")
    found: dict[str, Any] = json.loads(results.read_text())["results"]
    found["samples"] = {name: _lines(out.rglob(f"samples_{name}_*.jsonl")) for name in ROWS}
    return found


def _lines(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def rows(tasks: Path, name: str) -> list[dict[str, Any]]:
    return _lines([tasks / f"{name}.jsonl"])


def said(sample: dict[str, Any]) -> list[float]:
    """The nats that lm-eval was told for each continuation of a row."""
    return [
        float(pair[0][0] if isinstance(pair[0], Sequence) and not isinstance(pair[0], str) else pair[0])
        for pair in sample["resps"]
    ]


@pytest.mark.parametrize("concurrent", [1, 4])
def test_scores_are_those_of_the_model_in_this_process(
    server: ServerProcess, tasks: Path, offline: dict[str, str], local: Local, concurrent: int
) -> None:
    found = evaluate(server, tasks, offline, num_concurrent=concurrent)
    lambada = [local.score(row["context"], f" {row['target']}") for row in rows(tasks, "kit_lambada")]
    nats = [score for score, _ in lambada]
    samples = sorted(found["samples"]["kit_lambada"], key=lambda sample: sample["doc_id"])
    assert [said(sample)[0] for sample in samples] == pytest.approx(nats, rel=1e-4)
    expected = found["kit_lambada"]
    assert expected["perplexity,none"] == pytest.approx(math.exp(-sum(nats) / len(nats)), rel=1e-4)
    assert expected["acc,none"] == pytest.approx(sum(greedy for _, greedy in lambada) / len(lambada))
    right, right_by_length = 0, 0
    for row in rows(tasks, "kit_arc_easy"):
        scores = [local.score(f"{row['context']}\nAnswer:", f" {choice}")[0] for choice in row["choices"]]
        by_length = [score / len(choice) for score, choice in zip(scores, row["choices"], strict=True)]
        right += scores.index(max(scores)) == row["gold"]
        right_by_length += by_length.index(max(by_length)) == row["gold"]
    arc = found["kit_arc_easy"]
    assert arc["acc,none"] == pytest.approx(right / ROWS["kit_arc_easy"][1])
    assert arc["acc_norm,none"] == pytest.approx(right_by_length / ROWS["kit_arc_easy"][1])
