"""The GPU that is not there refuses what a GPU refuses, and computes what a CPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.pretend_gpu import GPU, PretendGPU, pretend_gpu
from torch import Tensor

from hope_kernels.slab_rows import gather_rows


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with pretend_gpu() as found:
        yield found


def there(values: list[float]) -> Tensor:
    return torch.tensor(values, device="cuda")


@pytest.mark.usefixtures("gpu")
def test_what_is_made_there_stays_there() -> None:
    x = there([1, 2, 3])
    made = (x + 1, x[1:], x.new_zeros(2), torch.empty_like(x), x.max(0).values, x.double(), *x.split(2))
    assert all(tensor.device == GPU and tensor.is_cuda for tensor in made)
    assert torch.zeros(2).device.type == torch.zeros_like(x, device="cpu").device.type == "cpu"


@pytest.mark.usefixtures("gpu")
def test_a_view_shares_memory_and_in_place_stays_the_same_tensor() -> None:
    x = there([1, 2, 3])
    part = x[:2]
    assert part.add_(5) is part
    part[0] = 9.0
    assert x.tolist() == [9, 7, 3]


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda x, y: x + y,
    "single number": lambda x, y: x + y[0],
    "list": lambda x, y: torch.cat([x, y]),
    "index": lambda x, y: x[y.long().clamp(0, 0)],
    "write": lambda x, y: x.__setitem__(slice(3), y),
    "in place": lambda x, y: y.add_(x),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "linear": lambda x, y: torch.nn.functional.linear(x, y[None]),
    "kernel": lambda x, y: gather_rows(x[:, None], y.long() - 1),
}


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("operation", MIXED)
def test_both_sides_in_one_operation_are_refused(operation: str) -> None:
    with pytest.raises(RuntimeError, match=r"expected all tensors on cuda:0, found .* on cpu"):
        MIXED[operation](there([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0]))


def test_a_copy_crosses_over_and_is_a_copy(gpu: PretendGPU) -> None:
    x, host = there([1, 2]), torch.zeros(2)
    for back in (x.cpu(), x.to("cpu"), x.to("cpu", torch.float64), x.to(host.device)):
        assert back.device.type == "cpu"
        assert back.tolist() == [1, 2]
    copy = host.to("cuda")
    copy += 1
    assert host.tolist() == [0, 0]
    host.copy_(x)
    assert host.tolist() == [1, 2]
    assert gpu.reads == 5


def test_reads_are_counted_and_numpy_is_refused(gpu: PretendGPU) -> None:
    x = there([1, 2])
    assert (float(x[0]), int(x[1]), bool(x[0]), x.tolist(), x[1].item()) == (1, 2, True, [1, 2], 2)
    assert len(x.nonzero()) == 2
    assert gpu.reads == 6
    with pytest.raises(TypeError, match="expected a tensor of the host"):
        x.numpy()


@pytest.mark.usefixtures("gpu")
def test_gradients_pass() -> None:
    x = torch.ones(2, device="cuda", requires_grad=True)
    (found,) = torch.autograd.grad((3 * x).sum(), [x])
    assert found.device == GPU
    assert found.tolist() == [3, 3]


def test_a_fused_kernel_is_noted_and_its_reference_runs(gpu: PretendGPU) -> None:
    slab, slots = there([5, 6, 7])[:, None], torch.tensor([2, -1], device="cuda")
    assert gather_rows(slab, slots).tolist() == [[7], [0]]
    assert gpu.fused == ["gather_rows"]
