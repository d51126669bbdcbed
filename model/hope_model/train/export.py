"""From a training run to a checkpoint that is served."""

from pathlib import Path

import torch

from hope_model.checkpoint import save_checkpoint
from hope_model.config import HopeConfig, get_config
from hope_model.errors import TrainError
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.resume import load_weights
from hope_model.train.settings import TRANSFORMER_PREFIX


def export_run(run: Path, model: HopeConfig | str, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the newest weights of ``run``, which trained ``model``, as a bf16 checkpoint to ``directory``.

    Raises:
        TrainError: no readable weights, or the run trained the reference Transformer, which is not served.
    """
    if isinstance(model, str) and model.startswith(TRANSFORMER_PREFIX):
        raise TrainError(f"{model} is a yardstick for training; expected a Hope configuration to export")
    trained = Hope(get_config(model) if isinstance(model, str) else model)
    try:
        trained.load_state_dict(load_weights(run))
    except RuntimeError as error:
        raise TrainError(f"{run}: expected weights of {trained.config.name}: {error}") from error
    save_checkpoint(directory, trained, tokenizer, dtype=torch.bfloat16)
