"""Resumable checkpoints of a training run: safetensors and JSON, a folder that appears whole or not at all."""

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
from hope_model.train.settings import TrainSettings

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_MOMENTS = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)
"""Not strict: a parameter that no window has reached yet (a level whose period is longer) has no moments."""
_LATEST = "latest.json"


@dataclass(frozen=True)
class Progress:
    """Where a process of a run stands: steps done, its lanes' position, its lanes' state."""

    step: int
    lanes: Mapping[str, Any]
    state: State


def save_progress(
    directory: Path,
    settings: TrainSettings,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    rank: int,
) -> None:
    """Write ``step-N`` and point ``latest.json`` at it; the one before the previous is removed.

    Every process calls it; process 0 writes weights and moments, each writes its own lanes.
    """
    folder = directory / f"step-{progress.step}"
    folder.mkdir(parents=True, exist_ok=True)
    # At a boundary two tensors of the state are one memory, which safetensors refuses to write.
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in progress.state.items()}
    save_file(state, folder / f"lanes-{rank}.safetensors")
    (folder / f"lanes-{rank}.json").write_text(json.dumps(progress.lanes))
    weights = get_model_state_dict(model, options=_WHOLE)
    moments = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    if rank:
        return
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    save_file(_flat(moments["state"]), folder / "optimizer.safetensors")
    scratch = directory / f".{_LATEST}"
    scratch.write_text(json.dumps({"step": progress.step, "settings": settings.to_dict()}))
    os.replace(scratch, directory / _LATEST)
    for old in sorted(directory.glob("step-*"), key=_step)[:-2]:
        shutil.rmtree(old)


def load_progress(
    directory: Path, settings: TrainSettings, model: nn.Module, optimizer: torch.optim.Optimizer, *, rank: int
) -> Progress | None:
    """Restore the newest checkpoint into ``model`` and ``optimizer``; None when the run is new.

    Raises:
        TrainError: the directory holds a run with other settings, or a checkpoint that cannot be read.
    """
    if not (directory / _LATEST).exists():
        return None
    try:
        latest = json.loads((directory / _LATEST).read_text())
        _check_settings(latest["settings"], settings.to_dict())
        folder = directory / f"step-{latest['step']}"
        set_model_state_dict(model, load_file(folder / "model.safetensors"), options=_WHOLE)
        moments = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
        moments["state"] = _nested(load_file(folder / "optimizer.safetensors"))
        set_optimizer_state_dict(model, optimizer, moments, options=_MOMENTS)
        lanes = json.loads((folder / f"lanes-{rank}.json").read_text())
        return Progress(int(latest["step"]), lanes, load_file(folder / f"lanes-{rank}.safetensors"))
    except (OSError, KeyError, ValueError, SafetensorError, RuntimeError) as error:
        raise TrainError(f"{directory}: the checkpoint cannot be resumed: {error}") from error


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The newest weights of a run, for export and evaluation.

    Raises:
        TrainError: no readable checkpoint there.
    """
    try:
        step = json.loads((directory / _LATEST).read_text())["step"]
        return load_file(directory / f"step-{step}" / "model.safetensors")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise TrainError(f"{directory}: no readable checkpoint: {error}") from error


def _check_settings(found: dict[str, Any], expected: dict[str, Any]) -> None:
    changed = [f"{k}: saved {found.get(k)!r}, asked {v!r}" for k, v in expected.items() if found.get(k) != v]
    if changed:
        raise TrainError("the run was started with other settings: " + "; ".join(changed))


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
