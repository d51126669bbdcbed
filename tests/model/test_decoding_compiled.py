"""Decoding by the compiled kernel: its threads, what it refuses, and what happens on a machine without it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.model.small import build, small_config
from tests.model.test_decoding import config, decode, tokens_of
from torch import Tensor

from hope_kernels import dispatch
from hope_kernels.cpu import build as cpu
from hope_kernels.cpu import decoder
from hope_kernels.cpu.build import BuildError
from hope_model.decoding import DecodeRows
from hope_model.decoding.compiled_path import CompiledPath
from hope_model.decoding.paths import OPERATION
from hope_model.decoding.torch_path import TorchPath
from hope_model.hope import Hope


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fresh_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been given up yet, and nothing stays so."""
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])


def run_of(model: Hope, rows: int, steps: int, threads: int) -> list[Tensor]:
    """Logits of each step."""
    torch.set_num_threads(threads)
    own = DecodeRows(model, rows, path="compiled")
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


@pytest.fixture
def compiled_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has the kernel compiled with these flags in the place of -march=native."""

    def choose(*flags: str) -> None:
        others = tuple(flag for flag in cpu.FLAGS if not flag.startswith("-march"))
        monkeypatch.setattr(cpu, "FLAGS", (*others, *flags))
        cpu.load.cache_clear()

    yield choose
    cpu.load.cache_clear()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names flags of x86-64")
@pytest.mark.parametrize(
    "flags",
    [
        ("-march=x86-64",),
        ("-march=native", "-mno-amx-tile"),
        pytest.param(("-march=x86-64-v3",), marks=pytest.mark.slow),
        pytest.param(("-march=x86-64-v4",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
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


@pytest.mark.usefixtures("fresh_dispatch")
def test_a_kernel_that_differs_from_the_model_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(small_config(), torch.float32)
    right = CompiledPath.step

    def wrong(self: CompiledPath, *arguments: object) -> tuple[Tensor, list[bool]]:
        logits, wrote = right(self, *arguments)  # type: ignore[arg-type]
        return logits.roll(1, -1), wrote

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
