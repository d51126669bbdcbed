"""Steps of the tiny model, its rows divided over the processes: ``CONFIG.json BATCHES OUT``, safetensors."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hope_model.config import CONFIGS, HopeConfig
from hope_model.train.data import Batch
from hope_model.train.objective import objective_of
from hope_model.train.optimizer import make_optimizer
from hope_model.train.processes import Processes
from hope_model.train.settings import TrainSettings
from hope_model.train.trainer import optimizer_step


def main(config_file: Path, batches_file: Path, out: Path) -> None:
    config = HopeConfig.from_dict(json.loads(config_file.read_text(encoding="utf-8")))
    CONFIGS[config.name] = config
    processes = Processes.join()
    torch.manual_seed(1)
    objective = objective_of(TrainSettings(model=config.name))
    processes.shard(objective.model)
    optimizer = make_optimizer(objective.model, TrainSettings())
    batches = load_file(batches_file)["tokens"].chunk(processes.count, dim=1)[processes.rank]
    state, figures = objective.initial_state(batches.shape[1]), []
    for tokens in batches:
        batch = Batch(tokens, torch.zeros(len(tokens), dtype=torch.bool), ())
        loss, norm, state = optimizer_step(
            objective, optimizer, processes, batch, state, precision="float32", clip_norm=0.1
        )
        figures += [loss, norm]
    weights = get_model_state_dict(objective.model, options=StateDictOptions(full_state_dict=True))
    if processes.rank == 0:
        found = {name: weight for name, weight in weights.items() if isinstance(weight, Tensor)}
        save_file({**found, "figures": torch.stack(figures)}, out)
    processes.leave()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
