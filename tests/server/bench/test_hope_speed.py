"""The comparison with a Transformer: its cache changes nothing, and both models have one size."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from hope_model.train.transformer import Transformer, TransformerConfig

SCRIPT = Path(__file__).parents[2] / "bench" / "hope_speed.py"


def test_the_transformers_cache_gives_what_a_whole_pass_does() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(vocab_size=50, width=32, layers=2, heads=2, mlp_width=24))
    tokens = torch.randint(50, (3, 9))
    decoder = runpy.run_path(str(SCRIPT))["CachedTransformer"](model, 3, 9)
    with torch.inference_mode():
        whole = model(tokens)
    for place in range(9):
        torch.testing.assert_close(decoder.step(tokens[:, place]), whole[:, place], rtol=1e-4, atol=1e-5)


def test_the_comparison_says_its_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--layers", "1", "--sessions", "1", "2", "--tokens", "5", "--repeats", "1", "--threads", "1"]
    runpy.run_path(str(SCRIPT))["main"]([*short, "--json", str(tmp_path / "f")])
    found = json.loads((tmp_path / "f").read_text())
    assert [row["sessions"] for row in found["decode"]] == [1, 2]
    first = found["decode"][0]
    assert first["ratio"] == pytest.approx(first["hope_tokens_per_s"] / first["transformer_tokens_per_s"])
    assert capsys.readouterr().out.startswith(f"{found['parameters']:,} parameters")
