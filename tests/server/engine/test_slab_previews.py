"""Decode on a GPU that is not there: in place, in few sizes, as graphs that change no bit."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from tests.model.small import assert_identical
from tests.pretend_gpu import GPU, PretendGPU, PretendGraph, PretendGraphs, pretend_gpu
from tests.server.engine.test_on_a_gpu import native
from torch import Tensor

from hope_kernels import dispatch
from hope_model.hope import Hope
from hope_model.state import State
from hope_server.engine import slab_previews
from hope_server.engine.decode_sizes import WARM_LAUNCHES
from hope_server.engine.graphs import OPERATION, CudaGraphs, Graph
from hope_server.engine.runner import Counts
from hope_server.engine.slab_previews import SlabPreviews, StepLaunch

SLOTS, STEPS = 5, 12
Step = tuple[list[int], list[int], list[bool]]


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with pretend_gpu() as found, torch.inference_mode():
        yield found


@pytest.fixture
def model(gpu: PretendGPU) -> Hope:
    return native(GPU)


@pytest.fixture(autouse=True)
def nothing_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])


class NoGraphs:
    """Where every capture fails."""

    def __init__(self) -> None:
        self.asked = 0

    def capture(self, launch: Callable[[], tuple[Tensor, ...]]) -> Graph:
        self.asked += 1
        raise RuntimeError("operation not permitted when stream is capturing")


def story() -> list[Step]:
    """Steps of one to all rows, some of whose tokens may not teach."""
    chance = random.Random(3)
    steps = []
    for _ in range(STEPS):
        slots = sorted(chance.sample(range(SLOTS), chance.randint(1, SLOTS)))
        learn = [chance.random() < 0.8 for _ in slots] if chance.random() < 0.5 else []
        steps.append((slots, [chance.randrange(31) for _ in slots], learn))
    return steps


def told(previews: SlabPreviews, steps: Sequence[Step]) -> list[tuple[Tensor, list[Counts]]]:
    return [previews.step(*step) for step in steps]


def made(model: Hope, graphs: PretendGraphs | NoGraphs, sizes: Sequence[int] = (2,)) -> SlabPreviews:
    return SlabPreviews(model, SLOTS, sizes, graphs)


def test_graphs_change_no_bit(model: Hope, gpu: PretendGPU) -> None:
    graphs = PretendGraphs(gpu)
    captured, eager = made(model, graphs), made(model, NoGraphs())
    steps = story()
    for (logits, counts), (expected, its_counts) in zip(
        told(captured, steps), told(eager, steps), strict=True
    ):
        assert torch.equal(logits, expected)
        assert counts == its_counts
    for slot in range(SLOTS):
        assert_identical(captured.state(slot), eager.state(slot))
    assert len(graphs.made) == 1
    assert graphs.made[0].replays > STEPS


def test_a_replay_runs_no_python_of_the_model_and_waits_once(
    model: Hope, gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    previews = made(model, PretendGraphs(gpu))
    for _ in range(WARM_LAUNCHES + 1):
        previews.step([0, 4], [1, 2], [])
    monkeypatch.setattr(model, "step_rows", None)
    before = gpu.reads
    logits, counts = previews.step([1, 4], [3, 4], [])
    assert gpu.reads == before + 1
    assert logits.shape == (2, 31)
    assert [own.position for own in counts] == [1, WARM_LAUNCHES + 2]


def test_outputs_outlive_the_next_replay(model: Hope, gpu: PretendGPU) -> None:
    previews = made(model, PretendGraphs(gpu))
    for _ in range(WARM_LAUNCHES + 1):
        logits, _ = previews.step([0], [1], [])
    kept = logits.clone()
    previews.step([0], [9], [])
    assert torch.equal(logits, kept)


def test_a_capture_changes_no_row(model: Hope, gpu: PretendGPU) -> None:
    previews = made(model, PretendGraphs(gpu))
    previews.step([0, 1], [1, 2], [])
    before = [
        {name: tensor.clone() for name, tensor in previews.state(slot).items()} for slot in range(SLOTS)
    ]
    step = previews._steps[2]
    inputs = step._inputs.clone()
    step.capture(PretendGraphs(gpu))
    assert torch.equal(step._inputs, inputs)
    for slot in range(SLOTS):
        assert_identical(previews.state(slot), before[slot])


def test_a_capture_that_fails_is_said_once_and_decoding_goes_on(
    model: Hope, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    dispatch.observe_fallbacks(lambda name, _error: noted.append(name))
    graphs = NoGraphs()
    with caplog.at_level(logging.ERROR, "hope_kernels.dispatch"):
        told(made(model, graphs, (1, 2)), story())
    assert graphs.asked == 1
    assert noted == [OPERATION]
    assert OPERATION in dispatch.operations()
    (record,) = caplog.records
    assert "cannot be captured as a CUDA graph" in record.getMessage()


def test_after_a_capture_that_fails_no_graph_is_kept(model: Hope, gpu: PretendGPU) -> None:
    graphs = PretendGraphs(gpu)
    previews = made(model, graphs, (1, 2))
    previews.sizes.sizes = (1, 2)
    one: Step = ([0], [1], [])
    two: Step = ([1, 2], [1, 2], [])
    told(previews, [one] * (WARM_LAUNCHES + 1))
    assert previews._steps[1].graph is graphs.made[0]
    previews._graphs = NoGraphs()
    told(previews, [two] * (WARM_LAUNCHES + 1) + [one])
    assert [step.graph for step in previews._steps.values()] == [None, None]
    assert graphs.made[0].replays == 1


def test_of_a_token_that_may_not_teach_the_levels_keep_nothing(model: Hope, gpu: PretendGPU) -> None:
    previews = made(model, PretendGraphs(gpu))
    for token in range(1, 4):
        previews.step([1, 3], [token, token], [False, True])
    kept = {
        slot: any(bool(x.any()) for name, x in previews.state(slot).items() if name.endswith(".gradient"))
        for slot in (1, 3)
    }
    assert kept == {1: False, 3: True}


def test_what_reads_the_device_cannot_be_captured(
    model: Hope, gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Hope.step_rows

    def asking(self: Hope, tokens: Tensor, slab: State, slots: Tensor, learn: Tensor) -> Tensor:
        return plain(self, tokens, slab, slots, learn if bool(learn.any()) else None)

    monkeypatch.setattr(Hope, "step_rows", asking)
    graphs = PretendGraphs(gpu)
    told(made(model, graphs), story())
    assert not graphs.made
    assert "not permitted when stream is capturing" in caplog.text


def test_graphs_that_take_too_much_are_not_kept(model: Hope, gpu: PretendGPU) -> None:
    graphs = PretendGraphs(gpu, bytes_each=slab_previews.GRAPH_BYTES // 2 + 1)
    previews = made(model, graphs, (1, 2))
    previews.sizes.sizes = (1, 2)
    told(previews, [([0], [1], []), ([1, 2], [1, 2], [])] * (WARM_LAUNCHES + 3))
    assert len(graphs.made) == 2
    assert [bool(step.graph) for step in previews._steps.values()] == [True, False]


@pytest.mark.parametrize("wrong", [None, 1, 4])
def test_sizes_with_other_bits_are_left_out(
    wrong: int | None, model: Hope, gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size gives the bits of the largest one, but for the wrong one, from its second step on."""
    plain = StepLaunch.run

    def in_one_shape(self: StepLaunch) -> tuple[Tensor, Tensor]:
        if self.size == 8:
            return plain(self)
        whole = StepLaunch(self._model, self._slab, 8)
        tokens, slots, _ = self._inputs.tolist()
        whole.fill(slots, tokens, ())
        logits, packed = plain(whole)
        later = packed[: self.size, :1] > 1  # positions
        return logits[: self.size] + 1e-6 * (self.size == wrong) * later, packed[: self.size]

    monkeypatch.setattr(StepLaunch, "run", in_one_shape)
    previews = made(model, NoGraphs(), (1, 2, 4, 8))
    assert previews.sizes.sizes == tuple(size for size in (1, 2, 4, 8) if size != wrong)
    assert previews.counts(0).position == 0
    fresh = model.initial_state(1)
    for slot in range(SLOTS):
        assert_identical(previews.state(slot), fresh)


def test_a_parked_row_comes_back(model: Hope, gpu: PretendGPU) -> None:
    previews = made(model, PretendGraphs(gpu))
    previews.step([1, 3], [4, 5], [])
    parked, before = previews.park(3), {name: x.clone() for name, x in previews.state(3).items()}
    assert all(type(tensor) is Tensor for tensor in parked.tensors)
    previews.clear(3)
    previews.unpark(0, parked)
    assert_identical(previews.state(0), before)


def test_the_double_of_a_graph_decides_nothing_anew(gpu: PretendGPU) -> None:
    """It is as blind as a graph: a branch that was taken is taken again, a number of Python stays."""
    x, scale = torch.ones(3, device="cuda"), [2.0]
    graph: PretendGraph = PretendGraphs(gpu).capture(lambda: (x * scale[0] + x[1:].sum(),))
    scale[0] = 5.0
    x.fill_(10.0)
    graph.replay()
    assert graph.outputs[0].tolist() == [40.0] * 3


@pytest.mark.gpu
def test_cuda_graphs_change_no_bit_on_this_gpu() -> None:
    device = torch.device("cuda", 0)
    model = native(device)
    with torch.inference_mode():
        captured, eager = SlabPreviews(model, SLOTS, (2,), CudaGraphs(device)), made(model, NoGraphs())
        for step in story():
            logits, counts = captured.step(*step)
            expected, its_counts = eager.step(*step)
            assert torch.equal(logits, expected)
            assert counts == its_counts
        assert captured._steps[2].graph is not None
        for slot in range(SLOTS):
            assert_identical(captured.state(slot), eager.state(slot))
