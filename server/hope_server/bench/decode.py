"""Decode speed of the engine alone: no HTTP, no store; commits are answered at once."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hope_server.bench.figures import percentile
from hope_server.engine.engine import Engine
from hope_server.engine.events import Done, Event, Failed, Halted, Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, SamplingParams
from hope_server.engine.runner import ServedModel, runner_for
from hope_server.errors import SessionCorrupted, StartupError
from hope_server.sessions.session import JournalRecord


@dataclass(frozen=True, slots=True)
class DecodeRun:
    """What each session does: read ``prompt_tokens``, then generate ``tokens``.

    threads: CPU threads of the engine. temperature: of sampling, 0 takes the best. decode_rows: as of
    ``EngineConfig``.
    """

    prompt_tokens: int
    tokens: int
    temperature: float
    threads: int
    learn: bool = True
    quantize: str = "none"
    decode_rows: int = 4


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """tokens_per_s: of all sessions together, block passes and writes included. step_s: of the steps that
    read one token of every session and nothing else; median and 99th percentile.
    """

    sessions: int
    tokens_per_s: float
    step_s: float
    step_p99_s: float

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def measure(
    model: ServedModel, run: DecodeRun, sessions: int, *, clock: Callable[[], float] = time.perf_counter
) -> DecodeFigures:
    """Decode ``sessions`` sessions at once.

    Raises whatever ended one of them, and StartupError for a run without a step that is timed.
    """
    bench = _Bench(model, run, sessions)
    bench.read_prompts()
    steps: list[float] = []
    started = clock()
    while bench.working:
        before, sampled = clock(), bench.sampled
        bench.engine.step()
        if bench.plain and bench.sampled - sampled == sessions:
            steps.append(clock() - before)
    seconds = clock() - started
    if not steps:
        raise StartupError(
            f"--tokens: expected more, found {run.tokens}: in no step each of {sessions} sessions read one",
            param="tokens",
        )
    return DecodeFigures(
        sessions, sessions * run.tokens / seconds, statistics.median(steps), percentile(steps, 99)
    )


class _Bench(NullObserver):
    """An engine whose sessions all read their prompts before the first of them decodes."""

    def __init__(self, model: ServedModel, run: DecodeRun, sessions: int) -> None:
        config = EngineConfig(
            slots=sessions, learn=run.learn, threads=run.threads, decode_rows=run.decode_rows
        )
        self.engine = Engine(runner_for(model, config), config, sink=self._take, observer=self)
        self.sampled = 0
        self.plain = False
        self._names = [f"session-{number}" for number in range(sessions)]
        self._done: set[str] = set()
        self._run, self._vocab = run, model.config.vocab_size

    @property
    def working(self) -> bool:
        return len(self._done) < len(self._names)

    def read_prompts(self) -> None:
        self.engine.attach()
        for name in self._names:
            self.engine.open(name)
        self.engine.step()
        for number, name in enumerate(self._names):
            self._start(name, number, max_tokens=0)
        while self.working:
            self.engine.step()
        self._done.clear()
        for number, name in enumerate(self._names):
            self._start(name, number, max_tokens=self._run.tokens)

    def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None:
        self.plain = batch_size == len(self._names) and not prompt_tokens

    def _start(self, name: str, number: int, *, max_tokens: int) -> None:
        prompt = 1 if max_tokens else self._run.prompt_tokens
        tokens = tuple(1 + (number * 7919 + place * 104729) % (self._vocab - 1) for place in range(prompt))
        sampling = SamplingParams(temperature=self._run.temperature, max_tokens=max_tokens, ignore_eos=True)
        record = JournalRecord(1, "run", "user", tokens)
        self.engine.start(name, [record], Generation(sampling, number), durable=True)

    def _take(self, events: list[tuple[str, Event]]) -> None:
        for session, event in events:
            if isinstance(event, Sampled):
                self.sampled += 1
                self.engine.committed(session, 1)
            elif isinstance(event, Done):
                self._done.add(session)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Halted):
                raise SessionCorrupted(
                    f"{session}: halted ({event.reason}), and a benchmark has no journal to go back to"
                )
