"""What a turn of a chat costs as the chat grows, beside transformers with and without its cache of keys.

    python -m tests.bench.turn_cost [--model hope-tiny] [--at 1 10 100 316 1000] [--json FILE] [--plot PNG]

At several lengths of one chat its next turns are taken alternately with the first turns of fresh chats,
through the engine, commits answered at once. What comes between is read as one prompt, as the model's own
words, which teach a pre-trained model nothing. Transformers answers the same turns: with the keys and values
of the whole chat kept (drawn at random, which costs the same), and, up to ``--reread`` turns, with the whole
chat read anew, as a server without sessions does. For hope-tiny it is a Llama of about as many parameters,
for a pre-trained model one of the same weights. Medians; ratios hold elsewhere.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from hope_model.attention.config import BackboneConfig
from hope_model.attention.model import HopeAttention
from hope_model.evaluate.transformers_reader import llama_config, load_llama
from hope_server.engine.engine import Engine
from hope_server.engine.events import Done, Event, Failed, Halted, Sampled
from hope_server.engine.jobs import Generation
from hope_server.engine.observer import NullObserver
from hope_server.engine.request import EngineConfig, SamplingParams
from hope_server.engine.runner import ServedModel, runner_for
from hope_server.engine.threads import use_threads
from hope_server.models import find_folder, load_served
from hope_server.sessions.session import JournalRecord, Origin

USER_TOKENS, ANSWER_TOKENS = 16, 8
TURN_TOKENS = USER_TOKENS + ANSWER_TOKENS
LIKE_TINY = BackboneConfig(
    vocab_size=8192, width=256, layers=4, heads=4, kv_heads=4, head_width=64, mlp_width=704
)
"""5.4 M parameters; hope-tiny has 5.5 M."""


class Chats:
    """One long chat and fresh ones, on an engine of two slots."""

    def __init__(self, model: ServedModel, *, seed: int) -> None:
        config = EngineConfig(slots=2)
        self._engine = Engine(runner_for(model, config), config, sink=self._take, observer=NullObserver())
        self._chance, self._vocab = random.Random(seed), model.config.vocab_size
        self._fresh = 0
        self._working: set[str] = set()
        self.turns = 0
        self._open("long")

    def read_up_to(self, turns: int) -> None:
        """The long chat goes on to ``turns`` turns."""
        while self.turns < turns:
            some = min(turns - self.turns, 100)
            self._run("long", self._some(some * TURN_TOKENS), 0, "model")
            self.turns += some

    def next_turn(self) -> float:
        """Seconds of the long chat's next one."""
        self.turns += 1
        return self._run("long", self._some(USER_TOKENS), ANSWER_TOKENS)

    def first_turn(self) -> float:
        """Seconds of the first one of a chat of its own."""
        self._fresh += 1
        name = f"fresh-{self._fresh}"
        self._open(name)
        seconds = self._run(name, self._some(USER_TOKENS), ANSWER_TOKENS)
        self._engine.release(name, None)
        return seconds

    def _open(self, name: str) -> None:
        self._engine.open(name)
        self._engine.step()

    def _some(self, tokens: int) -> tuple[int, ...]:
        return tuple(self._chance.randrange(1, self._vocab) for _ in range(tokens))

    def _run(self, name: str, tokens: tuple[int, ...], answer: int, origin: Origin = "user") -> float:
        sampling = SamplingParams(temperature=0.0, max_tokens=answer, ignore_eos=True)
        started = time.perf_counter()
        self._working.add(name)
        self._engine.start(
            name, [JournalRecord(1, "run", origin, tokens)], Generation(sampling, 0), durable=True
        )
        while self._working:
            self._engine.step()
        return time.perf_counter() - started

    def _take(self, events: list[tuple[str, Event]]) -> None:
        for name, event in events:
            if isinstance(event, Sampled):
                self._engine.committed(name, 1)
            elif isinstance(event, Done):
                self._working.discard(name)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Halted):
                raise SystemExit(f"{name} stopped learning ({event.reason}): nothing to measure")


class Theirs:
    """transformers' model, one chat."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Newer versions have renamed the argument and warn about the old name.
        taken = signature(type(model).forward).parameters
        self._cache = "cache" if "cache" in taken else "past_key_values"

    @torch.inference_mode()
    def turn(self, before: int, *, reuse: bool) -> float:
        """Seconds of a turn after ``before`` tokens, with their keys and values at hand or not."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        if reuse and before:
            self._fill(cache, before)
        ids = torch.randint(1, self._model.config.vocab_size, (1, USER_TOKENS + (0 if reuse else before)))
        started = time.perf_counter()
        for _ in range(ANSWER_TOKENS):
            logits = self._model(ids, **{self._cache: cache}, logits_to_keep=1).logits
            ids = logits[:, -1:].argmax(-1)
        return time.perf_counter() - started

    def _fill(self, cache: Any, tokens: int) -> None:
        config = self._model.config
        shape = (1, config.num_key_value_heads, tokens, config.head_dim)
        for layer in range(config.num_hidden_layers):
            keys, values = (torch.randn(shape).to(self._model.dtype) for _ in range(2))
            cache.update(keys, values, layer)


def measure(
    chats: Chats, theirs: Theirs, points: list[int], repeats: int, reread: int
) -> list[dict[str, float]]:
    """At each point, medians in seconds."""
    found = []
    for point in points:
        chats.read_up_to(max(chats.turns, point - repeats))
        pairs = [(chats.first_turn(), chats.next_turn()) for _ in range(repeats)]
        first, late = (statistics.median(column) for column in zip(*pairs, strict=True))
        row = {"turn": point, "first_s": first, "ours_s": late}
        before = (point - 1) * TURN_TOKENS
        row["reuse_s"] = statistics.median(theirs.turn(before, reuse=True) for _ in range(3))
        if point <= reread:
            row["reread_s"] = statistics.median(
                theirs.turn(before, reuse=False) for _ in range(1 if before > 1000 else 3)
            )
        found.append(row)
        print(line(row), flush=True)
    return found


HEAD = (
    "| turn | ours / first turn | ours, ms | first turn, ms | transformers, cache kept | whole chat read |\n"
    "|---|---|---|---|---|---|"
)


def line(row: dict[str, float]) -> str:
    reread = f"{1e3 * row['reread_s']:.0f}" if "reread_s" in row else ""
    return (
        f"| {row['turn']} | {row['ours_s'] / row['first_s']:.2f} | {1e3 * row['ours_s']:.0f} "
        f"| {1e3 * row['first_s']:.0f} | {1e3 * row['reuse_s']:.0f} | {reread} |"
    )


def plot(rows: list[dict[str, float]], path: Path, name: str) -> None:
    """Seconds by turn, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, label in (
        ("ours_s", name),
        ("reuse_s", "transformers, keys and values kept"),
        ("reread_s", "transformers, the chat read anew"),
    ):
        own = [(row["turn"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*own, strict=True), marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel="turn", ylabel="s", title=f"a turn of {TURN_TOKENS} tokens")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def their_model(name: str, model: ServedModel) -> Any:
    """transformers' counterpart of a served model."""
    from transformers import LlamaForCausalLM

    if isinstance(model, HopeAttention):
        return load_llama(find_folder(name), model.config, torch.bfloat16)
    llama: Any = LlamaForCausalLM(llama_config(LIKE_TINY))
    return llama.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="hope-tiny")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 10, 100, 316, 1000], help="turns, ascending")
    parser.add_argument("--repeats", type=int, default=24, help="turns of each kind at a point (default: 24)")
    parser.add_argument("--reread", type=int, default=100, help="turns up to which a chat is read anew")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plot", type=Path, help="draw them here (needs the extra 'plot')")
    args = parser.parse_args()
    use_threads(args.threads)
    torch.manual_seed(0)
    served = load_served(args.model, learning=True, threads=args.threads)
    chats, theirs = Chats(served.model, seed=0), Theirs(their_model(args.model, served.model))
    chats.first_turn()
    theirs.turn(0, reuse=True)
    print(HEAD)
    rows = measure(chats, theirs, args.at, args.repeats, args.reread)
    if args.json:
        found = {"model": served.name, "turn_tokens": TURN_TOKENS, "threads": args.threads, "points": rows}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(rows, args.plot, served.name)


if __name__ == "__main__":
    main()
