"""From a training run to a checkpoint that is served."""

from pathlib import Path

import torch

from hope_model.checkpoint import save_checkpoint
from hope_model.errors import TrainError
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer
from hope_model.train.resume import load_weights
from hope_model.train.settings import TrainSettings


def export_run(run: Path, settings: TrainSettings, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the newest weights of ``run``, made with ``settings``, as a bf16 checkpoint to ``directory``.

    Raises:
        TrainError: no readable weights, or the run trained the reference Transformer, which is not served.
    """
    if settings.yardstick:
        raise TrainError(
            f"{settings.model} is a yardstick for training; expected a Hope configuration to export"
        )
    model = Hope(settings.hope_config())
    try:
        model.load_state_dict(load_weights(run))
    except RuntimeError as error:
        raise TrainError(f"{run}: expected weights of {model.config.name}: {error}") from error
    save_checkpoint(directory, model, tokenizer, dtype=torch.bfloat16)
