"""Kernels run in Triton's interpreter, unless the tests that need a GPU are asked for."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"
