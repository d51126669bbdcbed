"""Decoding by the compiled kernel: its threads, what it refuses, and what happens on a machine without it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tests.model.instructions import PLAIN, WITHOUT_AMX, with_other_instructions
from tests.model.small import build, small_config
from tests.model.test_decoding import assert_close, config, decode, stepped, tokens_of
from torch import Tensor

from hope_kernels import dispatch
from hope_kernels.cpu import decoder
from hope_kernels.cpu.build import BuildError
from hope_model.decoding import DecodeRows, compiled_path
from hope_model.decoding.compiled_path import CompiledPath, fits
from hope_model.decoding.paths import OPERATION
from hope_model.decoding.torch_path import TorchPath
from hope_model.hope import Hope
from hope_model.streaks import Frozen

pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_of(model: Hope, rows: int, steps: int, threads: int) -> list[Tensor]:
    """Logits of each step, of rows that began one after the other."""
    torch.set_num_threads(threads)
    own = DecodeRows(model, rows, path="compiled")
    for row in range(rows):
        own.read(row, tokens_of(row, 1 + row % 13))
    return [
        own.step(range(rows), [(7 * step + 3 * row) % 31 for row in range(rows)]) for step in range(steps)
    ]


@pytest.mark.parametrize("rows", [1, 3, 33])
def test_bits_do_not_depend_on_the_number_of_threads(rows: int) -> None:
    """Few rows share their products, many go their own ways."""
    model = build(config(), torch.float32)
    alone = run_of(model, rows, 20, threads=1)
    for threads in (2, 3):
        found = run_of(model, rows, 20, threads)
        assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True)), threads


@pytest.mark.parametrize("threads", [1, 2])
def test_a_level_of_several_parts_follows_the_models_own_step(threads: int) -> None:
    torch.set_num_threads(threads)
    model = build(replace(config(), cms_width=80), torch.float32)
    rows = DecodeRows(model, 2, dtype=torch.float32, path="compiled")
    _, expected = stepped(model, model.initial_state(1), tokens_of(0, 70))
    for token in tokens_of(0, 70):
        rows.step([0, 1], [token, 3])
    assert_close(rows.state(0), expected)


CUTS = {
    "ones": [1] * 300,
    "all": [300],
    "ragged": [1, 5, 40, 3, 64, 100, 1, 86],
    "runs": [16] * 18 + [12],
}


def read_in(rows: DecodeRows, row: int, cuts: list[int], teach: list[bool]) -> Tensor:
    """Logits after all tokens."""
    tokens, logits, start = tokens_of(0, len(teach)), torch.empty(0), 0
    for size in cuts:
        part = slice(start, start + size)
        logits, start = rows.read(row, tokens[part], teach[part]), start + size
    return logits


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("teaches", ["always", "in turns"])
def test_bits_do_not_depend_on_how_tokens_are_cut(threads: int, kind: torch.dtype, teaches: str) -> None:
    """Over the ends of runs, chunks, periods, and of what a level keeps; from a token each to all at once."""
    torch.set_num_threads(threads)
    model = build(config("adam"), torch.float32)
    teach = [teaches == "always" or place % 70 < 45 for place in range(300)]
    rows = DecodeRows(model, 4, dtype=kind, path="compiled")
    steps = rows.step([0], [0])[0]
    rows.clear(0)
    for token, flag in zip(tokens_of(0, 300), teach, strict=True):
        steps = rows.step([0], [token], [flag])[0]
    for cuts in CUTS.values():
        rows.clear(2)
        assert torch.equal(read_in(rows, 2, cuts, teach), steps)
        assert rows.counts(2) == rows.counts(0)
        expected, found = rows.state(0), rows.state(2)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("why", ["frozen", "not finite"])
def test_a_row_that_does_not_learn_is_read_as_in_steps(why: str) -> None:
    model = build(config(), torch.float32)
    begun = DecodeRows(model, 1, path="compiled")
    begun.read(0, tokens_of(0, 128))
    state = {name: tensor.clone() for name, tensor in begun.state(0).items()}
    if why == "frozen":
        state["frozen"] = torch.tensor([int(Frozen.JOURNAL)])
    else:
        state["layers.0.phi.memory"][:, 1] = torch.nan
    rows = DecodeRows(model, 2, path="compiled")
    for row in range(2):
        rows.load(row, state)
    tokens = tokens_of(1, 90)
    for token in tokens:
        rows.step([0], [token])
    rows.read(1, tokens)
    assert rows.counts(1) == rows.counts(0)
    assert rows.counts(1)[3] is (Frozen.JOURNAL if why == "frozen" else Frozen.NON_FINITE)
    for name, expected in rows.state(0).items():
        assert torch.equal(rows.state(1)[name].nan_to_num(7.0), expected.nan_to_num(7.0)), name


def test_what_is_read_at_once_leaves_other_rows_alone() -> None:
    model = build(config(), torch.float32)
    rows = DecodeRows(model, 3, path="compiled")
    for row in range(3):
        decode(rows, row, tokens_of(row, 35 + row))
    before = [rows.park(row).tensors for row in (0, 2)]
    rows.read(1, tokens_of(7, 120))
    after = [rows.park(row).tensors for row in (0, 2)]
    assert all(
        torch.equal(*pair) for own in zip(before, after, strict=True) for pair in zip(*own, strict=True)
    )


@with_other_instructions(PLAIN, WITHOUT_AMX)
def test_other_instructions_keep_the_rules(
    compiled_with: Callable[..., None], flags: tuple[str, ...]
) -> None:
    """The machine's own are in all other tests. More rows than one register holds, and a few left over."""
    compiled_with(*flags)
    model = build(config(), torch.float32)
    rows, alone = DecodeRows(model, 7, path="compiled"), DecodeRows(model, 1, path="compiled")
    other = DecodeRows(model, 1, path="torch")
    for step, token in enumerate(tokens_of(0, 40)):
        logits = rows.step(range(7), [(token + 5 * row) % 31 for row in range(7)])
        assert torch.equal(alone.step([0], [(token + 15) % 31])[0], logits[3]), step
        expected = other.step([0], [(token + 15) % 31])[0].log_softmax(-1)
        shift = (expected.exp() * (expected - logits[3].log_softmax(-1))).sum()
        assert float(shift) < 1e-3, step


def test_the_fastest_path_is_the_compiled_one_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = build(small_config(), torch.float32)
    with caplog.at_level(logging.INFO):
        rows = DecodeRows(model, 2)
    assert isinstance(rows._path, CompiledPath)
    assert f"decoding with the compiled kernel {OPERATION}" in caplog.text
    twin = DecodeRows(model, 2, path="compiled")
    assert rows.counts(0) == twin.counts(0), "it was tried, and cleared"
    assert torch.equal(decode(rows, 0, tokens_of(0, 9)), decode(twin, 0, tokens_of(0, 9)))


@pytest.mark.parametrize("name", ["MOST_HEAD", "MOST_KEPT", "MOST_LEVEL"])
@pytest.mark.usefixtures("fresh_dispatch")
def test_a_model_that_does_not_fit_goes_by_torch_and_nothing_is_given_up(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(small_config(chunk=16, block=16), torch.float32)
    head, level = model.config.head_width, model.config.cms_width
    most = {"MOST_HEAD": head, "MOST_KEPT": 16 * head, "MOST_LEVEL": level}[name]
    monkeypatch.setattr(compiled_path, name, most)
    assert fits(model.config)
    monkeypatch.setattr(compiled_path, name, most - 1)
    with caplog.at_level(logging.INFO):
        assert isinstance(DecodeRows(model, 1)._path, TorchPath)
    assert "too wide for the compiled kernel" in caplog.text
    assert dispatch.fallbacks() == ()


@pytest.mark.usefixtures("fresh_dispatch")
def test_without_a_compiler_torch_takes_over_loudly_and_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none() -> None:
        raise BuildError("no C compiler: expected cc or gcc or clang on PATH")

    told: list[str] = []
    dispatch.observe_fallbacks(lambda name, _error: told.append(name))
    monkeypatch.setattr(decoder, "load", none)
    model = build(small_config(), torch.float32)
    rows = [DecodeRows(model, 1) for _ in range(2)]
    assert all(isinstance(own._path, TorchPath) for own in rows)
    assert told == [OPERATION]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [OPERATION in record.message and "no C compiler" in record.message for record in errors] == [True]
    assert OPERATION in dispatch.operations()


@pytest.mark.parametrize("how", ["other tokens", "not a number"])
@pytest.mark.usefixtures("fresh_dispatch")
def test_a_kernel_that_differs_from_the_model_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(small_config(), torch.float32)
    right = CompiledPath.step

    def wrong(self: CompiledPath, *arguments: object) -> tuple[Tensor, list[bool]]:
        logits, wrote = right(self, *arguments)  # type: ignore[arg-type]
        return logits.roll(1, -1) if how == "other tokens" else logits * torch.nan, wrote

    monkeypatch.setattr(CompiledPath, "step", wrong)
    rows = DecodeRows(model, 1)
    assert isinstance(rows._path, TorchPath)
    assert dispatch.fallbacks() == (OPERATION,)
    assert rows.counts(0)[0] == 0, "what the wrong one read is forgotten"


@pytest.mark.parametrize(("row", "token"), [(0, -1), (0, 31), (-1, 0), (2, 0)])
def test_no_row_and_no_token_leads_out_of_the_tables(row: int, token: int) -> None:
    rows = DecodeRows(build(small_config(), torch.float32), 2, path="compiled")
    with pytest.raises(IndexError):
        rows._path.step([row], [token], [rows._rows[0]])
