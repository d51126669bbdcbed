"""Decode speed of a native Hope model beside a plain Transformer with a KV cache, in the same run.

    python tests/bench/hope_speed.py [--layers 6] [--sessions 1 16 32] [--tokens 256] [--repeats 3]

Both have the same width, depth and count of parameters (within 1%), random weights, and read one token of
every session a step. Ours goes through the engine as it is served, with sampling, block passes and writes;
the Transformer is plain PyTorch in fp32: products, rotation, `scaled_dot_product_attention` over a
preallocated cache that starts empty, greedy, all rows in lockstep. Medians of the repeats, taken in turn;
ratios are what holds between machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_model.config import get_config
from hope_model.hope import Hope
from hope_model.train.transformer import Block, Transformer, matched_to, rotary_table, rotate
from hope_server.bench.bandwidth import copy_bandwidth
from hope_server.bench.decode import DecodeRun, measure
from hope_server.bench.step_bytes import step_bytes
from hope_server.config import usable_cores


class CachedTransformer:
    """Decodes ``rows`` texts in lockstep, up to ``length`` tokens."""

    def __init__(self, model: Transformer, rows: int, length: int) -> None:
        self._model, self._read = model, 0
        config = model.config
        shape = (2, rows, config.heads, length, config.width // config.heads)
        self._cache = [torch.zeros(shape) for _ in model.blocks]
        self._rotation = rotary_table(length, shape[-1], model.embedding.weight)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """``[B]`` -> logits ``[B, vocab]``."""
        model, at = self._model, self._read
        x = model.embedding(tokens)[:, None]
        turn = self._rotation[:, at : at + 1]
        for block, cache in zip(model.blocks, self._cache, strict=True):
            assert isinstance(block, Block)
            attention = block.attention
            parts = attention.qkv(block.attention_norm(x)).unflatten(-1, (3, attention.heads, -1))
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            cache[0, :, :, at : at + 1], cache[1, :, :, at : at + 1] = rotate(k, turn), v
            seen = cache[:, :, :, : at + 1]
            y = F.scaled_dot_product_attention(rotate(q, turn), *seen)
            x = x + attention.out(y.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.mlp_norm(x))
        self._read += 1
        return F.linear(model.norm(x[:, 0]), model.embedding.weight)


def theirs(model: Transformer, rows: int, tokens: int) -> float:
    """Tokens per second of all rows."""
    decoder = CachedTransformer(model, rows, tokens)
    ids = torch.arange(rows) % model.config.vocab_size
    started = time.perf_counter()
    for _ in range(tokens):
        ids = decoder.step(ids).argmax(-1)
    return rows * tokens / (time.perf_counter() - started)


def compare(layers: int, counts: list[int], tokens: int, repeats: int, threads: int) -> dict[str, object]:
    """Tokens/s of both by number of sessions, and ours beside what memory bandwidth allows."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = replace(get_config("hope-tiny"), name="bench", layers=layers)
    hope = Hope(config).requires_grad_(False).eval()
    parameters = sum(parameter.numel() for parameter in hope.parameters())
    sizes = matched_to(
        parameters, layers=layers, width=config.width, heads=config.heads, vocab_size=config.vocab_size
    )
    transformer = Transformer(sizes).requires_grad_(False).eval()
    run = DecodeRun(prompt_tokens=16, tokens=tokens, temperature=1.0, threads=threads)
    measure(hope, run, 1)
    theirs(transformer, 1, tokens)
    bandwidth, moved = copy_bandwidth(torch.device("cpu")), step_bytes(hope)
    rows = []
    for sessions in counts:
        pairs = [
            (measure(hope, run, sessions), theirs(transformer, sessions, tokens)) for _ in range(repeats)
        ]
        step_s = statistics.median(ours.step_s for ours, _ in pairs)
        ours = statistics.median(found.tokens_per_s for found, _ in pairs)
        other = statistics.median(found for _, found in pairs)
        rows.append(
            {
                "sessions": sessions,
                "hope_tokens_per_s": ours,
                "transformer_tokens_per_s": other,
                "ratio": ours / other,
                "step_s": step_s,
                "bandwidth_fraction": moved.step(sessions) / bandwidth / step_s,
            }
        )
    return {"parameters": parameters, "copy_bandwidth_bytes_per_s": bandwidth, "decode": rows}


def table(found: dict[str, object]) -> str:
    """As Markdown."""
    rows = found["decode"]
    assert isinstance(rows, list)
    lines = [
        "| sessions | Hope, tokens/s | Transformer | ratio | step, ms | step / first | of the bandwidth |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['sessions']} | {row['hope_tokens_per_s']:.0f} | {row['transformer_tokens_per_s']:.0f} "
            f"| {row['ratio']:.2f} | {1e3 * row['step_s']:.2f} | {row['step_s'] / rows[0]['step_s']:.2f} "
            f"| {row['bandwidth_fraction']:.2f} |"
        )
    return "\n".join([f"{found['parameters']:,} parameters", "", *lines])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(arguments)
    found = compare(args.layers, args.sessions, args.tokens, args.repeats, args.threads)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
