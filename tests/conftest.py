"""Every test starts from the same seeds and threads, and memory that nobody wrote reads as NaN."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from torch import Tensor

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core: threads of one would wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(  # a busy machine is not a failure; a fixture for all examples is meant
    "search",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("hope", settings.get_profile("search"), derandomize=True)
settings.load_profile("hope")  # a commit fails for what is in it, not for the examples of the day


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A machine without a C compiler has no compiled kernel to test; what it has instead is tested."""
    compiled = [item for item in items if item.get_closest_marker("compiler") is not None]
    if not compiled:
        return
    from hope_kernels.cpu.build import BuildError, find_compiler

    try:
        find_compiler()
    except BuildError as error:
        for item in compiled:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory() -> Iterator[None]:
    """``torch.empty`` and its kin give NaN (integers: the largest), so that code which reads them shows.

    Tests that never import torch do not pay for it.
    """
    if "torch" not in sys.modules:
        yield
        return
    import torch

    with torch.device("cpu"):
        torch.empty(0)  # torch.device remembers the constructors that it redirects: the real ones, please
    with (
        patch.object(torch, "empty", _poisoned(torch.empty)),
        patch.object(torch, "empty_like", _poisoned(torch.empty_like)),
        patch.object(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty)),
    ):
        yield


@pytest.fixture(autouse=True)
def seeds_and_threads() -> Iterator[None]:
    random.seed(0)
    if "torch" not in sys.modules:
        yield
        return
    import torch

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    import torch

    @wraps(make)
    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        with torch.no_grad():
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                return tensor.fill_(float("nan"))
            return tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max)

    return poisoned


@pytest.fixture
def compiled_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has the kernel compiled with these flags in the place of -march=native."""
    from hope_kernels.cpu import build

    def choose(*flags: str) -> None:
        others = tuple(flag for flag in build.FLAGS if not flag.startswith("-march"))
        monkeypatch.setattr(build, "FLAGS", (*others, *flags))
        build.load.cache_clear()

    yield choose
    build.load.cache_clear()
