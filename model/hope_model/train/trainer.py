"""The training loop: windows of long streams, state carried from one to the next."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hope_model.errors import TrainError
from hope_model.tokenizer import Tokenizer
from hope_model.train.data import Batch, LaneConfig, LaneReader
from hope_model.train.log import TrainLog, plot_loss
from hope_model.train.machine import autocast, faster_precision, keep_freed_memory
from hope_model.train.mixture import Source
from hope_model.train.objective import Objective, make_objective
from hope_model.train.optimizer import learning_rate, make_optimizer
from hope_model.train.resume import Progress, load_progress, save_progress
from hope_model.train.settings import TrainSettings


def train(settings: TrainSettings, sources: Sequence[Source], tokenizer: Tokenizer, directory: Path) -> None:
    """Run, or go on with, the training run in ``directory`` until ``settings.tokens`` are read.

    Under ``torchrun`` the weights are sharded over all processes (FSDP2) and each reads lanes of its own. An
    interrupt saves a checkpoint before it ends the run.

    Raises:
        TrainError: the loss is not finite, or ``directory`` holds another run.
        DataError: a shard cannot be read.
    """
    rank, world = _join_processes()
    keep_freed_memory()
    device = _device()
    torch.manual_seed(settings.seed)
    objective = make_objective(settings.model)
    objective.model.to(device)
    _shard(objective.model, world)
    optimizer = make_optimizer(objective.model, settings)
    directory.mkdir(parents=True, exist_ok=True)
    progress = load_progress(directory, settings, objective.model, optimizer, rank=rank)
    reader = _reader(settings, sources, tokenizer, rank)
    with reader:
        if progress is None:
            progress = Progress(0, reader.state_dict(), objective.initial_state(settings.rows))
        else:
            reader.load_state_dict(progress.lanes)
        run = _Run(settings, objective, optimizer, reader, directory, device, rank, world)
        run.go(progress)
    if rank == 0:
        plot_loss(directory)
    if world > 1:
        torch.distributed.destroy_process_group()


class _Run:
    """One process of a run."""

    def __init__(
        self,
        settings: TrainSettings,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        reader: LaneReader,
        directory: Path,
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        self.settings, self.objective, self.optimizer, self.reader = settings, objective, optimizer, reader
        self.directory, self.device, self.rank = directory, device, rank
        self.steps = settings.steps(world)
        self.tokens_per_step = settings.rows * settings.window * world
        self.precision = settings.precision

    def go(self, progress: Progress) -> None:
        with TrainLog(
            self.directory,
            steps=self.steps,
            done=progress.step,
            tokens_per_step=self.tokens_per_step,
            rank=self.rank,
        ) as log:
            try:
                while progress.step < self.steps:
                    progress = self._step(progress, next(self.reader), log)
                    if progress.step % self.settings.save_every == 0 or progress.step == self.steps:
                        self._save(progress)
            except KeyboardInterrupt:
                self._save(progress)
                raise

    def _step(self, progress: Progress, batch: Batch, log: TrainLog) -> Progress:
        tokens, resets = batch.tokens.to(self.device), batch.resets.to(self.device)
        if self.precision == "auto":
            self.precision = faster_precision(lambda: self._probe(batch, progress), self.device)
        rate = learning_rate(self.settings, progress.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(self.precision, self.device):
            loss, state = self.objective.loss(tokens, resets, progress.state)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.objective.model.parameters(), self.settings.clip_norm)
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise TrainError(f"step {progress.step + 1}: expected a finite loss, found {value}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        log.step(progress.step + 1, loss=value, gradient_norm=float(norm), learning_rate=rate)
        return replace(progress, step=progress.step + 1, lanes=self.reader.state_dict(), state=state)

    def _probe(self, batch: Batch, progress: Progress) -> None:
        loss, _ = self.objective.loss(
            batch.tokens.to(self.device), batch.resets.to(self.device), progress.state
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()

    def _save(self, progress: Progress) -> None:
        save_progress(
            self.directory, self.settings, self.objective.model, self.optimizer, progress, rank=self.rank
        )


def _reader(settings: TrainSettings, sources: Sequence[Source], tokenizer: Tokenizer, rank: int) -> LaneReader:
    return LaneReader(
        sources,
        tokenizer,
        rows=settings.rows,
        window=settings.window,
        seed=settings.seed + 1_000_003 * rank,
        config=LaneConfig(reset_probability=settings.reset_probability),
    )


def _join_processes() -> tuple[int, int]:
    """``(rank, processes)``; joins the group that ``torchrun`` describes in the environment."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return torch.distributed.get_rank(), world


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _shard(model: nn.Module, world: int) -> None:
    """FSDP2: each block, then the rest (embedding, head, norm) as the root."""
    if world == 1:
        return
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world,))
    blocks = model.blocks
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
