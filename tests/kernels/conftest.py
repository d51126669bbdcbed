"""Kernels run in Triton's interpreter, unless the tests that need a GPU are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def products_of_bf16() -> Iterator[None]:
    """The interpreter keeps bf16 as 16-bit integers, and its products take them for numbers: widen them."""
    from triton import language
    from triton.runtime import interpreter

    plain = interpreter.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != language.bfloat16:
            return x
        values = (x.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(values, language.float32)

    def dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        return plain(self, widened(a), widened(b), d, *options)

    with patch.object(interpreter.InterpreterBuilder, "create_dot", dot):
        yield
