"""One small JSON file for every finished run; they are kept in the tree."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hope_model.errors import ExperimentError
from hope_model.experiment.plan import ALL, Run
from hope_model.experiment.settings import differences

NEEDED = {
    "run": dict,
    "fingerprint": dict,
    "learning_rate": float,
    "tuning": dict,
    "parameters": int,
    "state_bytes": int,
    "loss": list,
    "evaluation": dict,
    "seconds": dict,
    "tokens_per_cpu_s": float,
    "device": str,
    "machine": str,
}
"""Fields of a result and their types."""

EVALUATED = ("heldout", "streams", "levels", "recall", "tasks")
"""Parts of its evaluation."""

Result = dict[str, Any]


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def read_results(folder: Path) -> dict[str, Result]:
    """Every result in ``folder``, by run.

    Raises:
        ExperimentError: a file is broken, names a run that there is not, or two were made with other
        settings; the message names the file and what was expected.
    """
    found: dict[str, Result] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        found[path.stem] = _read(path)
    names = iter(found)
    first = next(names, None)
    for name in names:
        assert first is not None
        changed = differences(found[name]["fingerprint"], found[first]["fingerprint"])
        if changed:
            raise ExperimentError(
                f"{path_of(folder, name)}: expected the settings of {first}.json; " + "; ".join(changed)
            )
    return found


def write_result(folder: Path, run: Run, result: Result) -> Path:
    """Add a result; it appears whole or not at all, and never replaces one."""
    path = path_of(folder, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{run.name}.{os.getpid()}"
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
    scratch.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    try:
        os.link(scratch, path)
    except FileExistsError as error:
        raise ExperimentError(f"{path}: expected no result yet, found one") from error
    finally:
        scratch.unlink()
    return path


def require_same(folder: Path, results: Mapping[str, Result], fingerprint: Mapping[str, Any]) -> None:
    """Raises ExperimentError when ``results`` were made with another ``fingerprint`` or another plan."""
    for name, result in results.items():
        changed = differences(result["fingerprint"], fingerprint)
        changed += differences(result["run"], ALL[name].to_dict(), "run.")
        if changed:
            raise ExperimentError(
                f"{path_of(folder, name)}: made with other settings, nothing was run or written; "
                "use another --results folder: " + "; ".join(changed)
            )


def _read(path: Path) -> Result:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(found, dict):
        raise ExperimentError(f"{path}: expected an object, found {type(found).__name__}")
    for name, kind in NEEDED.items():
        if not isinstance(found.get(name), kind):
            raise ExperimentError(
                f"{path}: {name}: expected {kind.__name__}, found {type(found.get(name)).__name__}"
            )
    missing = [name for name in EVALUATED if name not in found["evaluation"]]
    if missing:
        raise ExperimentError(
            f"{path}: evaluation: expected {', '.join(EVALUATED)}, found none of {', '.join(missing)}"
        )
    if path.stem not in ALL or found["run"].get("name") != path.stem:
        raise ExperimentError(
            f"{path}: expected the result of run {path.stem!r}, found {found['run'].get('name')!r}"
        )
    return found
