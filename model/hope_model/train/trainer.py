"""The training loop: windows of long streams, state carried from one to the next."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hope_model.errors import TrainError
from hope_model.state import State
from hope_model.tokenizer import Tokenizer
from hope_model.train.captured_step import CapturedStep, Step
from hope_model.train.data import Batch, LaneConfig, LaneReader
from hope_model.train.log import TrainLog, plot_loss
from hope_model.train.machine import autocast, faster_precision, keep_freed_memory
from hope_model.train.mixture import Source
from hope_model.train.objective import Objective, objective_of
from hope_model.train.optimizer import learning_rate, make_optimizer, set_rate
from hope_model.train.processes import Processes, clip_gradients
from hope_model.train.resume import Progress, load_progress, save_progress
from hope_model.train.settings import TrainSettings
from hope_model.train.stop import StopSignal


def train(settings: TrainSettings, sources: Sequence[Source], tokenizer: Tokenizer, directory: Path) -> None:
    """Run, or go on with, the training run in ``directory`` until ``settings.tokens`` are read.

    Under ``torchrun`` the weights are sharded over all processes (FSDP2) and each reads lanes of its own. A
    first SIGINT or SIGTERM ends the step in hand, saves a checkpoint and raises KeyboardInterrupt.

    Raises:
        ConfigError: a window that ``settings.model`` cannot be trained on.
        TrainError: loss or gradient is not finite, the data is used up, or ``directory`` holds another run.
        DataError: a shard cannot be read.
    """
    processes = Processes.join()
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    directory.mkdir(parents=True, exist_ok=True)
    with _reader(settings, sources, tokenizer, processes.rank) as reader:
        run = _Run(settings, processes, reader, directory)
        progress = run.restore()
        try:
            run.go(progress)
        except KeyboardInterrupt:
            processes.leave()
            raise
    if processes.rank == 0:
        plot_loss(directory)
    processes.leave()


def optimizer_step(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    processes: Processes,
    batch: Batch,
    state: State,
    *,
    precision: str,
    clip_norm: float,
) -> tuple[Tensor, Tensor, State]:
    """One window of every lane -> (mean nats per token, norm of the gradient, state without its graph)."""
    tokens, resets = batch.tokens.to(processes.device), batch.resets.to(processes.device)
    with autocast(precision, processes.device):
        loss, state = objective.loss(tokens, resets, state)
    torch.autograd.backward(loss)
    processes.average_whole(objective.model)
    norm = clip_gradients(objective.model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return processes.mean(loss.detach()), norm, state


class _Run:
    """One process of a run."""

    def __init__(
        self, settings: TrainSettings, processes: Processes, reader: LaneReader, directory: Path
    ) -> None:
        self.settings, self.processes = settings, processes
        self.reader, self.directory = reader, directory
        self.objective = objective_of(settings)
        self.objective.check_window(settings.window, processes.count)
        self.objective.model.to(processes.device)
        processes.shard(self.objective.model)
        self.optimizer = make_optimizer(self.objective.model, settings)
        self.steps = settings.steps(processes.count)
        self._window: Step | None = None

    def restore(self) -> Progress:
        """The newest checkpoint of the directory, or the beginning."""
        start = Progress(
            0,
            self.reader.state_dict(),
            self.objective.initial_state(self.settings.rows),
            self.settings.precision,
        )
        progress = load_progress(
            self.directory, self.settings, self.objective.model, self.optimizer, start, self.processes
        )
        if progress is None:
            return start
        self.reader.load_state_dict(progress.lanes)
        return progress

    def go(self, progress: Progress) -> None:
        log = TrainLog(
            self.directory,
            steps=self.steps,
            done=progress.step,
            tokens_per_step=self.settings.rows * self.settings.window * self.processes.count,
            rank=self.processes.rank,
        )
        with log, StopSignal() as stop:
            while progress.step < self.steps:
                progress = self._step(progress, log)
                stopping = self.processes.any(stop.asked)
                if stopping or progress.step % self.settings.save_every == 0 or progress.step == self.steps:
                    self._save(progress)
                if stopping and progress.step < self.steps:
                    raise KeyboardInterrupt

    def _step(self, progress: Progress, log: TrainLog) -> Progress:
        number = progress.step + 1
        batch = next(self.reader, None)
        if batch is None:
            raise TrainError(f"step {number}: expected text for {self.steps} steps, found the sets used up")
        precision = progress.precision
        if precision == "auto":
            precision = self._faster_precision(batch, progress.state)
        rate = learning_rate(self.settings, progress.step, self.steps)
        if self._window is None:
            self._window = self._optimizer_step(precision)
        set_rate(self.optimizer, rate)
        loss, norm, state = self._window(batch, progress.state)
        figures = {"loss": float(loss), "gradient_norm": float(norm)}
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise TrainError(f"step {number}: expected a finite loss and gradient, found {figures}")
        log.step(number, **figures, learning_rate=rate)
        return replace(
            progress, step=number, lanes=self.reader.state_dict(), state=state, precision=precision
        )

    def _optimizer_step(self, precision: str) -> Step:
        step = partial(
            optimizer_step,
            self.objective,
            self.optimizer,
            self.processes,
            precision=precision,
            clip_norm=self.settings.clip_norm,
        )
        device = self.processes.device
        if device.type == "cuda" and self.processes.count == 1:
            return CapturedStep(step, self.optimizer, device)
        return step

    def _faster_precision(self, batch: Batch, state: State) -> str:
        tokens, resets = batch.tokens.to(self.processes.device), batch.resets.to(self.processes.device)

        def probe() -> None:
            loss, _ = self.objective.loss(tokens, resets, state)
            torch.autograd.backward(loss)
            self.optimizer.zero_grad()

        return self.processes.first(faster_precision(probe, self.processes.device))

    def _save(self, progress: Progress) -> None:
        save_progress(
            self.directory, self.settings, self.objective.model, self.optimizer, progress, self.processes
        )


def _reader(
    settings: TrainSettings, sources: Sequence[Source], tokenizer: Tokenizer, rank: int
) -> LaneReader:
    return LaneReader(
        sources,
        tokenizer,
        rows=settings.rows,
        window=settings.window,
        seed=settings.seed + 1_000_003 * rank,
        config=LaneConfig(reset_probability=settings.reset_probability),
    )
