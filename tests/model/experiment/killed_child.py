"""A process that makes a run and is killed in the middle of its training: ``FOLDER RUN STEP``."""

import os
import signal
import sys
from pathlib import Path

import torch
from tests.model.experiment.tiny import opened, shrink

from hope_model.experiment.plan import ALL
from hope_model.experiment.runner import Places
from hope_model.train.log import TrainLog


def main(folder: Path, name: str, last: int) -> None:
    shrink(lambda mapping, key, value: mapping.__setitem__(key, value))
    plain = TrainLog.step

    def killed(self: TrainLog, step: int, **figures: float) -> None:
        plain(self, step, **figures)
        if step == last and self._path.parent.name == "train":
            os.kill(os.getpid(), signal.SIGKILL)

    TrainLog.step = killed  # type: ignore[method-assign]
    opened(Places(folder / "data", folder / "kit", folder / "work", folder / "results")).make(ALL[name])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
