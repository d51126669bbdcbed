"""Decode speed of a Hope-Attention model beside transformers' generate, in the same run.

    python tests/bench/attention_speed.py [--model smollm2-135m] [--sessions 1 4 16] [--turns 4] [--repeats 3]
        [--words chat|random] [--quantize none int8 int4] [--threads N] [--cpu-time]

Chat turns of 60 user and 120 generated tokens, greedy: an invented person says five facts and goes on with
small talk (``--words random``: ids at random, all of them news). Ours goes through the engine, step by step
as it is served, commits answered at once; learning on and off. Transformers generates 120 tokens after a
prompt of 60 with the same weights in bf16, without any history. Medians of the repeats, taken in turn, of
every way to keep our weights; ratios are what holds between machines. ``--cpu-time`` counts seconds of this
process's CPU instead of the clock's: for a machine that others share, with ``--threads 1``.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hope_model.attention.checkpoint import AttentionCheckpoint, load_attention_checkpoint
from hope_model.attention.quantize import KINDS, bits_of
from hope_model.checkpoint import resolve
from hope_model.convert.convert import ensure_model
from hope_model.convert.package import known_models
from hope_model.evaluate.facts import invent_people
from hope_model.evaluate.filler import FILLER
from hope_model.evaluate.transformers_reader import load_llama
from hope_server.engine.engine import Engine
from hope_server.engine.events import Done, Event, Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, SamplingParams
from hope_server.engine.runner import runner_for
from hope_server.sessions.session import JournalRecord

USER_TOKENS, ANSWER_TOKENS = 60, 120


Clock = Callable[[], float]


@dataclass(frozen=True)
class Run:
    """tokens_per_s: generated tokens of all sessions. gap_ratio: longest inter-token gap over the median one.
    learning_share: of the wall time, spent on writes and encodings.
    """

    tokens_per_s: float
    gap_ratio: float = 0.0
    learning_share: float = 0.0


def chat_words(checkpoint: AttentionCheckpoint, session: int, seed: int) -> Iterator[list[int]]:
    """What one person says, 60 tokens a turn."""
    (person,) = invent_people(1, 5, 1000 * seed + session, FILLER)
    words = [
        person.told,
        *itertools.chain.from_iterable(itertools.repeat([said for said, _ in person.filler], 9)),
    ]
    ids = itertools.chain.from_iterable(map(checkpoint.tokenizer.encode, words))
    return iter(lambda: list(itertools.islice(ids, USER_TOKENS)), [])


def random_words(checkpoint: AttentionCheckpoint, session: int, seed: int) -> Iterator[list[int]]:
    """Ids at random, 60 a turn."""
    generator = torch.Generator().manual_seed(1000 * seed + session)
    while True:
        yield torch.randint(
            1000, checkpoint.model.config.vocab_size, (USER_TOKENS,), generator=generator
        ).tolist()


WORDS = {"chat": chat_words, "random": random_words}


def ours(
    checkpoint: AttentionCheckpoint,
    sessions: int,
    turns: int,
    *,
    learn: bool,
    seed: int,
    words: str,
    clock: Clock,
) -> Run:
    """Every session chats ``turns`` turns at once with the others."""
    config = EngineConfig(slots=max(sessions, 2), learn=learn)
    runner = runner_for(checkpoint.model, config)
    spent = [0.0]
    work = runner.work

    def timed(slots: Sequence[int]) -> None:
        started = clock()
        work(slots)
        spent[0] += clock() - started

    runner.work = timed  # type: ignore[method-assign]
    seen: dict[str, list[float]] = {}
    done: set[str] = set()

    def sink(events: list[tuple[str, Event]]) -> None:
        for session, event in events:
            if isinstance(event, Sampled):
                seen.setdefault(session, []).append(clock())
                engine.committed(session, 1)
            elif isinstance(event, Done):
                done.add(session)

    engine = Engine(runner, config, sink=sink, observer=NullObserver())
    engine.attach()
    names = {f"s{number}": WORDS[words](checkpoint, number, seed) for number in range(sessions)}
    for name in names:
        engine.open(name)
    engine.step()
    gaps: list[float] = []
    started = clock()
    for _ in range(turns):
        done.clear()
        for name, said in names.items():
            sampling = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True)
            record = JournalRecord(1, "run", "user", tuple(next(said)))
            engine.start(name, [record], Generation(sampling, seed), durable=True)
        while len(done) < sessions:
            engine.step()
        for times in seen.values():
            gaps += [late - early for early, late in itertools.pairwise(times)]
        seen.clear()
    seconds = clock() - started
    return Run(
        sessions * turns * ANSWER_TOKENS / seconds, max(gaps) / statistics.median(gaps), spent[0] / seconds
    )


def theirs(model: Any, sessions: int, turns: int, clock: Clock) -> Run:
    """transformers' generate."""
    started = clock()
    with torch.inference_mode():
        for _ in range(turns):
            ids = torch.randint(1000, model.config.vocab_size, (sessions, USER_TOKENS))
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=ANSWER_TOKENS,
                min_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
    return Run(sessions * turns * ANSWER_TOKENS / (clock() - started))


def _row(sessions: int, base: float, kind: str, off: list[Run], on: list[Run]) -> str:
    without = statistics.median(run.tokens_per_s for run in off)
    learning = statistics.median(run.tokens_per_s for run in on)
    return (
        f"| {sessions} | {base:.1f} | {kind} | {without:.1f} ({without / base:.2f}) "
        f"| {learning:.1f} ({learning / base:.2f}) "
        f"| {statistics.median(run.gap_ratio for run in on):.1f} "
        f"| {statistics.median(run.learning_share for run in on):.0%} of the time |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quantize", choices=KINDS, nargs="+", default=["none"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--words", choices=sorted(WORDS), default="chat")
    args = parser.parse_args()
    folder = ensure_model(args.model) if args.model in known_models() else resolve(args.model)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    kept = {kind: load_attention_checkpoint(folder, quantize=bits_of(kind)) for kind in args.quantize}
    reference = load_llama(folder, next(iter(kept.values())).model.config, torch.bfloat16)
    gc.collect()
    gc.freeze()  # as `hope serve` does
    print(
        "| sessions | transformers tokens/s | weights | learning off | learning on | longest gap / median "
        "| learning |"
    )
    print("|---|---|---|---|---|---|---|")
    for sessions in args.sessions:
        base_runs: list[float] = []
        off: dict[str, list[Run]] = {kind: [] for kind in kept}
        on: dict[str, list[Run]] = {kind: [] for kind in kept}
        for repeat in range(args.repeats):
            base_runs.append(theirs(reference, sessions, args.turns, clock).tokens_per_s)
            for kind, checkpoint in kept.items():
                for runs, learn in ((off, False), (on, True)):
                    runs[kind].append(
                        ours(
                            checkpoint,
                            sessions,
                            args.turns,
                            learn=learn,
                            seed=repeat,
                            words=args.words,
                            clock=clock,
                        )
                    )
        base = statistics.median(base_runs)
        for kind in kept:
            print(_row(sessions, base, kind, off[kind], on[kind]), flush=True)
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
