"""lm-eval against a server, `hope eval task` against it and in this process: what each finds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from tests.real_clients.benchmarks import BENCHMARKS, Row

from hope_server.cli import main

LM_EVAL_S = 3000
MAX_LENGTH = 2048
"""lm-eval's own: a text is cut to so many tokens less one."""
DEFINITION = """
include: {definition}
task: {task}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{train: {file}, validation: {file}, test: {file}}}}}
"""
"""lm-eval's task but for where its rows come from; which split it judges is its own affair."""


@dataclass(frozen=True)
class Found:
    """figures: of a task, by name. nats: of every answer of every row, in their order."""

    figures: dict[str, float]
    nats: list[list[float]]


@dataclass(frozen=True)
class Files:
    """The rows of some benchmarks in one folder, with lm-eval's tasks on them."""

    folder: Path
    names: Sequence[str]

    def hope(self, name: str) -> Path:
        return self.folder / (f"{name}.txt" if name == "wikitext" else f"{name}.jsonl")


def write_files(
    kit: Path,
    folder: Path,
    names: Sequence[str],
    *,
    rows: int,
    articles: int,
    row_chars: int | None = None,
    article_chars: int | None = None,
) -> Files:
    """The first so many rows of each benchmark, if asked for of those that are as short; articles are cut."""
    folder.mkdir(parents=True)
    for name in names:
        benchmark = BENCHMARKS[name]
        every = benchmark.rows(kit)
        if name == "wikitext":
            own = [_cut(row, article_chars) for row in islice(every, articles)]
            (folder / "wikitext.txt").write_text("\n".join(row["page"] for row in own), encoding="utf-8")
        else:
            short = (row for row in every if row_chars is None or len(json.dumps(row)) <= row_chars)
            own = list(islice(short, rows))
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
        definition = _lm_eval() / benchmark.definition
        text = DEFINITION.format(definition=definition, task=f"kit_{name}", file=file)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return Files(folder, names)


def lm_eval(
    files: Files, url: str, env: Mapping[str, str], *, batch: int = 8, **arguments: object
) -> dict[str, Found]:
    """What lm-eval finds of the server with these ``--model_args``."""
    given = {"base_url": f"{url}/v1/completions", "max_length": MAX_LENGTH, **arguments}
    out = files.folder / "lm-eval"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in given.items())),
            *(
                "--include_path",
                str(files.folder),
                "--tasks",
                ",".join(f"kit_{name}" for name in files.names),
            ),
            *("--output_path", str(out), "--log_samples", "--batch_size", str(batch)),
        ],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=LM_EVAL_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = out.rglob("results_*.json")
    figures = json.loads(results.read_text(encoding="utf-8"))["results"]
    found = {}
    for name in files.names:
        samples = sorted(
            _lines(out.rglob(f"samples_kit_{name}_*.jsonl")), key=lambda sample: sample["doc_id"]
        )
        own = {key.removesuffix(",none"): value for key, value in figures[f"kit_{name}"].items()}
        found[name] = Found(own, [_nats(sample) for sample in samples])
    return found


def hope_eval(
    files: Files, model: str, *, window: int, url: str | None = None, batch: int = 8
) -> dict[str, Found]:
    """What `hope eval task` finds: in this process, or of the server."""
    found = {}
    for name in files.names:
        out, rows = files.folder / f"{name}.figures.json", files.folder / f"{name}.rows.jsonl"
        command = ["eval", "task", name, str(files.hope(name)), "--model", model, "--batch", str(batch)]
        command += ["--json", str(out), "--rows", str(rows)]
        command += ["--window", str(window)] if name == "wikitext" else []
        assert main([*command, *(["--url", url] if url else [])]) == 0
        nats = [row["nats"] for row in _lines([rows])]
        found[name] = Found(json.loads(out.read_text(encoding="utf-8")), nats)
    return found


def furthest(one: Found, other: Found) -> float:
    """The largest difference of two log-likelihoods, in nats; the rows must be as many, and their answers."""
    pairs = [
        (left, right)
        for row, twin in zip(one.nats, other.nats, strict=True)
        for left, right in zip(row, twin, strict=True)
    ]
    return max(abs(left - right) for left, right in pairs)


def _lm_eval() -> Path:
    found = find_spec("lm_eval.tasks")
    assert found is not None, "expected lm-eval, which `pip install -e '.[clients]'` installs"
    assert found.origin is not None
    return Path(found.origin).parent


def _cut(row: Row, chars: int | None) -> Row:
    """An article's first whole lines, and an empty one, so that the next heading is known as one."""
    if chars is None:
        return row
    kept, size = [], 0
    for line in row["page"].split("\n"):
        size += len(line) + 1
        if size > chars:
            break
        kept.append(line)
    return {"page": "\n".join([*kept, " "])}


def _nats(sample: dict[str, Any]) -> list[float]:
    """The nats that lm-eval was told for each continuation of a row."""
    return [float(pair[0][0] if isinstance(pair[0], list) else pair[0]) for pair in sample["resps"]]


def _lines(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [
        json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line
    ]
