"""Resumable checkpoints of a run: safetensors and JSON in a folder that appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from hope_model.errors import TrainError
from hope_model.state import State
from hope_model.train.processes import Processes
from hope_model.train.settings import TrainSettings

_ON_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)
_ON_EVERY = StateDictOptions(full_state_dict=True)
_LATEST = "latest.json"
_UNREADABLE = (OSError, LookupError, TypeError, AttributeError, ValueError, SafetensorError, RuntimeError)


@dataclass(frozen=True)
class Progress:
    """Where a process of a run stands: steps done, its lanes' position and state, the precision in use."""

    step: int
    lanes: Mapping[str, Any]
    state: State
    precision: str


def save_progress(
    directory: Path,
    settings: TrainSettings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    processes: Processes,
) -> None:
    """Write ``step-N`` and point ``latest.json`` at it; the one before the previous is removed.

    Every process calls it; process 0 writes weights and moments, each writes its own lanes.
    """
    scratch, folder = directory / f".step-{progress.step}", directory / f"step-{progress.step}"
    scratch.mkdir(parents=True, exist_ok=True)
    # At a boundary two tensors of the state are one memory, which safetensors refuses to write.
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in progress.state.items()}
    save_file(state, scratch / f"lanes-{processes.rank}.safetensors")
    (scratch / f"lanes-{processes.rank}.json").write_text(json.dumps(progress.lanes), encoding="utf-8")
    weights: dict[str, Any] = get_model_state_dict(model, options=_ON_FIRST)
    moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_ON_FIRST)
    if processes.count > 1:
        torch.distributed.barrier()
    if processes.rank:
        return
    save_file({k: v.contiguous() for k, v in weights.items()}, scratch / "model.safetensors")
    save_file(_flat(moments["state"]), scratch / "optimizer.safetensors")
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed before it pointed at it
    scratch.rename(folder)
    latest = {
        "step": progress.step,
        "settings": settings.to_dict(),
        "processes": processes.count,
        "precision": progress.precision,
    }
    pointer = directory / f".{_LATEST}"
    pointer.write_text(json.dumps(latest), encoding="utf-8")
    os.replace(pointer, directory / _LATEST)
    for old in sorted(directory.glob("step-*"), key=_step)[:-2]:
        shutil.rmtree(old)


def load_progress(
    directory: Path,
    settings: TrainSettings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    start: Progress,
    processes: Processes,
) -> Progress | None:
    """Restore the newest checkpoint into ``model`` and ``optimizer``; None when the run is new.

    ``start`` is where a new run stands: its state says which tensors, and on which device, a saved one has.

    Raises:
        TrainError: the directory holds a run with other settings, or a checkpoint that cannot be read.
    """
    if not (directory / _LATEST).exists():
        return None
    try:
        latest = json.loads((directory / _LATEST).read_text(encoding="utf-8"))
        # A setting that did not exist when the run was started had its default.
        found = {**TrainSettings().to_dict(), **latest["settings"], "processes": latest.get("processes", 1)}
        _check_settings(found, {**settings.to_dict(), "processes": processes.count})
        folder = directory / f"step-{latest['step']}"
        weights: dict[str, Any] = _fitting(load_file(folder / "model.safetensors"), model.state_dict())
        set_model_state_dict(model, weights, options=_ON_EVERY)
        moments: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_ON_EVERY)
        saved = load_file(folder / "optimizer.safetensors")
        moments["state"] = _nested(_fitting(saved, _flat(moments["state"])))
        set_optimizer_state_dict(model, optimizer, moments, options=_ON_EVERY)
        lanes = json.loads((folder / f"lanes-{processes.rank}.json").read_text(encoding="utf-8"))
        if not isinstance(lanes, dict):
            raise ValueError(f"lanes: expected an object, found {type(lanes).__name__}")
        state = _fitting(load_file(folder / f"lanes-{processes.rank}.safetensors"), start.state)
        return Progress(int(latest["step"]), lanes, state, latest.get("precision", start.precision))
    except _UNREADABLE as error:
        raise TrainError(f"{directory}: the checkpoint cannot be resumed: {error!r}") from error


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The newest weights of a run, for export and evaluation.

    Raises:
        TrainError: no readable checkpoint there.
    """
    try:
        step = json.loads((directory / _LATEST).read_text())["step"]
        return load_file(directory / f"step-{step}" / "model.safetensors")
    except _UNREADABLE as error:
        raise TrainError(f"{directory}: no readable checkpoint: {error!r}") from error


def _check_settings(found: dict[str, Any], expected: dict[str, Any]) -> None:
    changed = [f"{k}: saved {found.get(k)!r}, asked {v!r}" for k, v in expected.items() if found.get(k) != v]
    if changed:
        raise TrainError("the run was started with other settings: " + "; ".join(changed))


def _fitting(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``found`` on the device of ``expected``; ValueError unless names, shapes and types are the same."""
    for name in sorted(found.keys() | expected.keys()):
        layouts = [(t.shape, t.dtype) if (t := s.get(name)) is not None else None for s in (expected, found)]
        if layouts[0] != layouts[1]:
            raise ValueError(f"{name!r}: expected {layouts[0]}, found {layouts[1]}")
    return {name: tensor.to(expected[name].device) for name, tensor in found.items()}


def _flat(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}/{key}": v.contiguous() for name, own in state.items() for key, v in own.items()}


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        nested.setdefault(name, {})[key] = tensor
    return nested


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
