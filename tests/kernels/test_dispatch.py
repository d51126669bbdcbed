"""Which form of an operation runs, and what happens when the fused one does not compile."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NoReturn

import pytest
import torch
from tests.pretend_gpu import pretend_gpu
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from hope_kernels import dispatch
from hope_kernels.dispatch import Dispatch, fallbacks, observe_fallbacks, on_gpu
from hope_kernels.fake_gpu import fake_gpu, on_fake_gpu
from hope_kernels.launch import launch

FAILURES = [
    CompilationError("source", None, "no such thing"),
    OutOfResources(300_000, 232_448, "shared memory"),
    PTXASError("ptxas exited with 1"),
    ImportError("No module named 'triton'"),
]
raised: list[BaseException] = []


def fused(x: Tensor) -> Tensor:
    """What the operation below runs: fails as ``raised`` says."""
    if raised:
        raise raised[0]
    return x + 1


def operation(name: str = "plus_one", *, serves: bool = True) -> Dispatch[[Tensor], Tensor]:
    made = Dispatch(name, lambda x: x + 1.0, "unused:fused", lambda _x: serves)
    made.fused = lambda: fused  # type: ignore[method-assign]
    return made


@pytest.fixture(autouse=True)
def nothing_given_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])
    raised.clear()
    yield
    raised.clear()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_kernel_that_does_not_compile_is_given_up_loudly_and_once(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    observe_fallbacks(lambda name, _error: told.append(name))
    op, x = operation(), torch.zeros(2)
    raised.append(failure)
    with caplog.at_level(logging.ERROR, "hope_kernels.dispatch"):
        for _ in range(3):
            assert op(x).tolist() == [1.0, 1.0]
    assert told == ["plus_one"]
    assert fallbacks() == ("plus_one",)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "plus_one" in caplog.text


def test_who_asks_late_hears_of_it_too() -> None:
    raised.append(FAILURES[0])
    operation("first")(torch.zeros(1))
    told: list[tuple[str, BaseException]] = []
    observe_fallbacks(lambda name, error: told.append((name, error)))
    operation("second")(torch.zeros(1))
    assert told == [("first", FAILURES[0]), ("second", FAILURES[0])]


def test_another_failure_is_not_hidden() -> None:
    """A kernel that started may have written: nothing is computed twice."""
    raised.append(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal"):
        operation()(torch.zeros(1))
    assert fallbacks() == ()


def test_one_operation_that_fails_leaves_the_others_fused() -> None:
    raised.append(FAILURES[0])
    operation("broken")(torch.zeros(1))
    raised.clear()
    assert operation("whole")(torch.zeros(1, dtype=torch.int64)).dtype is torch.int64


def test_what_the_fused_form_does_not_serve_goes_to_the_reference() -> None:
    def never() -> NoReturn:
        raise AssertionError("the fused form was asked for")

    op = operation(serves=False)
    op.fused = never  # type: ignore[method-assign]
    assert op(torch.zeros(1)).tolist() == [1.0]


def test_fused_forms_serve_a_gpu_without_gradients() -> None:
    x = torch.zeros(2)
    assert not on_gpu(x)
    with fake_gpu() as mode:
        there = on_fake_gpu(x, mode)
        assert on_gpu(there, None)
        assert not on_gpu(there, x)
        learned = there.requires_grad_()
        assert not on_gpu(learned)
        with torch.no_grad():
            assert on_gpu(learned)


def test_a_kernel_that_gets_a_host_tensor_is_found() -> None:
    from hope_kernels.slab_rows.fused import gather_rows

    with fake_gpu() as mode:
        slab, slots = torch.zeros(4, 3), torch.zeros(2, dtype=torch.int64)
        assert gather_rows(on_fake_gpu(slab, mode), on_fake_gpu(slots, mode)).shape == (2, 3)
        with pytest.raises(RuntimeError, match="cpu"):
            gather_rows(on_fake_gpu(slab, mode), slots)


def test_a_kernel_starts_on_the_device_of_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's thread may stand on another GPU than the one that it was asked to use."""
    entered: list[object] = []

    class On:
        def __init__(self, device: object) -> None:
            entered.append(device)

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None:
            entered.append("left")

    monkeypatch.setattr(torch.cuda, "device", On)
    started: list[tuple[object, ...]] = []
    kernel = {(3,): lambda *arguments, **_constants: started.append((*entered, *arguments))}
    with pretend_gpu():
        x = torch.zeros(2, device="cuda")
        launch(kernel, (3,), 5, x)
    assert started == [(x.device, 5, x)]
    assert entered == [torch.device("cuda", 0), "left"]
    launch(kernel, (3,), torch.zeros(1))
    assert len(entered) == 2
