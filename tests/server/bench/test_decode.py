"""`hope bench decode` on small models: every session's tokens, and bytes counted by trying."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.model.attention.tiny import VOCAB, backbone_config, config, random_weights, tiny_model
from tests.model.small import Parts, build, small_config

from hope_model.attention.model import HopeAttention
from hope_server.bench.bandwidth import copy_bandwidth
from hope_server.bench.decode import DecodeFigures, DecodeRun, measure
from hope_server.bench.decode_report import decode_report, table
from hope_server.bench.step_bytes import StepBytes, step_bytes
from hope_server.cli import BAD_SETTING, main
from hope_server.errors import SessionCorrupted, StartupError

RUN = DecodeRun(prompt_tokens=3, tokens=20, temperature=1.0, threads=1)


@pytest.mark.parametrize("sessions", [1, 5])
def test_sessions_decode_through_blocks(sessions: int) -> None:
    """A clock of one second a look: two looks a plain step, more tokens than a block holds."""
    ticks = iter(range(10_000))
    model = build(small_config(), torch.float32)
    found = measure(model, RUN, sessions, clock=lambda: float(next(ticks)))
    assert found.sessions == sessions
    assert found.step_s == found.step_p99_s == 1.0
    assert found.tokens_per_s > 0


def test_a_pre_trained_model_decodes_too() -> None:
    assert measure(tiny_model(), RUN, 2).tokens_per_s > 0


def test_a_session_that_fails_ends_the_run() -> None:
    model = build(small_config(), torch.float32)
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    with pytest.raises(SessionCorrupted, match="halted"):
        measure(model, RUN, 2)


def test_a_run_too_short_to_be_timed_says_so() -> None:
    with pytest.raises(StartupError, match=r"^--tokens: expected more, found 1: in no step each of 2 ses"):
        measure(build(small_config(), torch.float32), replace(RUN, tokens=1), 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sessions", "1", "999999999"), "--sessions: 999,999,999 of "),
        (("--threads", "5000"), "argument --threads: expected at most 1024, found 5000"),
    ],
)
def test_more_than_the_machine_has_is_refused_before_the_run(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(["bench", "decode", "--tokens", "2", *arguments])
    except SystemExit as ended:
        status = ended.code
    assert status == BAD_SETTING
    assert said in capsys.readouterr().err


def test_bytes_of_a_token_by_the_equations() -> None:
    """φ is read and written, its projections read, the pending ones read and written; a level is read and
    gathers a gradient; moments of its write rule are not touched.
    """
    config = small_config(Parts(write_rule="adam"))
    model = build(config, torch.float32)
    head, heads, inner = config.head_width, config.heads, config.cms_width
    projections = heads * (2 * head + 2) * head
    phi = 2 * heads * head * head + projections + 2 * projections + 2 * 3 * config.width
    level = inner * inner + 2 * inner * inner + 2 * inner
    found = step_bytes(model)
    assert found.session == 4 * config.layers * (phi + 2 * level)
    assert found.weights == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert found.step(3) == found.weights + 3 * found.session


def test_bytes_of_a_pre_trained_model_count_its_window() -> None:
    model = tiny_model()
    backbone, memory = model.config.backbone, model.config.memory
    found = step_bytes(model)
    span = memory.prefix + memory.window
    size = model.backbone.dtype.itemsize
    assert found.session > 2 * backbone.layers * backbone.kv_heads * backbone.head_width * span * size
    assert found.weights > 0


def test_bytes_of_quantised_weights_are_those_that_are_read() -> None:
    """Two of bf16, one of int8, half of int4 and four for scale and zero of every 32; the head is of int8."""
    small = replace(config(), backbone=backbone_config(head_width=16, mlp_width=96))
    with torch.inference_mode(False):
        plain, int8, int4 = (
            step_bytes(HopeAttention(small, random_weights(small), quantize=bits)).weights
            for bits in (None, "int8", "int4")
        )
    norms = 4 * 32 * (2 * 3 + 1)
    head, body = VOCAB * 32, 3 * (32 * (64 + 2 * 32) + 64 * 32 + 3 * 32 * 96)
    rows = 3 * (64 + 2 * 32 + 32 + 2 * 96 + 32)
    assert plain == norms + 2 * (head + body)
    assert int8 == norms + head + body + 4 * (VOCAB + rows)
    assert int4 == norms + head + 4 * VOCAB + body * (16 + 4) // 32


def test_the_fraction_is_the_least_time_over_the_step() -> None:
    runs = [DecodeFigures(4, 100.0, step_s, step_s) for step_s in (0.5, 0.25, 1.0)]
    found = decode_report("m", RUN, runs, StepBytes(100, 50), 1200.0)
    (row,) = found["decode"]
    assert row["step_bytes"] == 300
    assert row["bandwidth_fraction"] == pytest.approx(0.5)
    assert "| 4 | 100.0 | 500.00 | 500.00 | 1.00 | 0.500 |" in table(found)


def test_copying_is_measured() -> None:
    assert copy_bandwidth(torch.device("cpu"), repeats=2, size=1 << 20) > 1e6


@pytest.mark.parametrize(
    ("device", "status", "said"),
    [
        ("cuda:7", 2, "--device (HOPE_DEVICE): cuda:7 is not there"),
        ("gpu", 2, "expected cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there(
    device: str, status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    try:
        found = main(["bench", "decode", "--device", device])
    except SystemExit as end:
        found = int(str(end.code))
    assert found == status
    assert said in capsys.readouterr().err


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--sessions", "1", "2", "--tokens", "4", "--repeats", "1", "--threads", "1"]
    assert main(["bench", "decode", *short, "--json", str(tmp_path / "decode.json")]) == 0
    found = json.loads((tmp_path / "decode.json").read_text())
    assert [row["sessions"] for row in found["decode"]] == [1, 2]
    assert found["session_bytes_per_token"] > 1_000_000
    assert capsys.readouterr().out.startswith("hope-tiny: slow weights")


def test_the_command_says_that_a_native_model_is_not_quantised(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", "--quantize", "int8", "--threads", "1"]) == BAD_SETTING
    assert "--quantize (HOPE_QUANTIZE): expected none for hope-tiny" in capsys.readouterr().err
