"""Kernels compiled for instructions other than the machine's own."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import pytest

WITHOUT_AMX = ("-march=native", "-mno-amx-tile")
PLAIN = ("-march=x86-64",)
INSTRUCTIONS = (WITHOUT_AMX, PLAIN, ("-march=x86-64-v3",), ("-march=x86-64-v4",))


def with_other_instructions(*quick: tuple[str, ...]) -> Callable[[Any], Any]:
    """Gives a test the ``flags`` of all :data:`INSTRUCTIONS`; those that are not ``quick`` make it slow."""
    cases = [
        pytest.param(flags, marks=() if flags in quick else pytest.mark.slow, id=" ".join(flags))
        for flags in INSTRUCTIONS
    ]

    def decorate(test: Any) -> Any:
        named = pytest.mark.skipif(platform.machine() != "x86_64", reason="names flags of x86-64")
        return named(pytest.mark.parametrize("flags", cases)(test))

    return decorate
