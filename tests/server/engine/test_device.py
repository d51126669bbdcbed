"""The device that a server is asked to use: found, or refused with what is there instead."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest
import torch

from hope_server.config import ServerConfig
from hope_server.engine.device import find_device, taking_memory
from hope_server.errors import StartupError


def machine(names: list[str], *, built: bool = True, current: int = 0) -> AbstractContextManager[object]:
    """One with these GPUs, as torch tells it."""
    return patch.multiple(
        torch,
        backends=type("", (), {"cuda": type("", (), {"is_built": staticmethod(lambda: built)})}),
        cuda=type(
            "",
            (),
            {
                "is_available": staticmethod(lambda: bool(names)),
                "device_count": staticmethod(lambda: len(names)),
                "current_device": staticmethod(lambda: current),
                "get_device_name": staticmethod(lambda index: names[index]),
            },
        ),
    )


def refusal(name: str) -> str:
    with pytest.raises(StartupError) as refused:
        find_device(name)
    assert refused.value.param == "device"
    text = str(refused.value)
    assert text.startswith(f"--device (HOPE_DEVICE): {name} is not there: ")
    return text.partition("not there: ")[2]


def test_a_cpu_is_always_there() -> None:
    with machine([], built=False):
        assert find_device("cpu") == torch.device("cpu")


def test_a_torch_without_cuda_says_so() -> None:
    with machine(["H"], built=False):
        assert refusal("cuda") == f"torch {torch.__version__} is built without CUDA"


def test_a_machine_without_a_gpu_says_so() -> None:
    with machine([]):
        assert refusal("cuda:0") == f"torch {torch.__version__} finds no CUDA device on this machine"


def test_a_gpu_that_is_not_there_names_those_that_are() -> None:
    with machine(["A100", "H100"], current=1):
        assert refusal("cuda:2") == "found cuda:0 A100, cuda:1 H100"
        assert find_device("cuda:0") == torch.device("cuda", 0)
        assert find_device("cuda") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:1234", "CPU", "mps", "cpu:0", ""])
def test_another_name_is_a_bad_setting(name: str) -> None:
    with pytest.raises(StartupError, match="HOPE_DEVICE") as refused:
        ServerConfig.load({"device": name})
    assert refused.value.param == "device"


def test_a_device_that_runs_out_names_the_setting() -> None:
    with (
        pytest.raises(
            StartupError, match=r"--slots \(HOPE_SLOTS\): 9 sessions do not fit .*: no 2 GiB$"
        ) as end,
        taking_memory("9 sessions", "slots"),
    ):
        raise torch.OutOfMemoryError("no 2 GiB\nmore")
    assert end.value.param == "slots"
