"""What tests of models share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hope_kernels import dispatch
from hope_kernels.cpu import build as cpu
from hope_model.decoding.paths import PATHS

NEEDS = {"compiled": [pytest.mark.compiler]}


@pytest.fixture(params=[pytest.param(name, marks=NEEDS.get(name, [])) for name in sorted(PATHS)])
def path(request: pytest.FixtureRequest) -> str:
    """Each way to decode a token."""
    name: str = request.param
    return name


@pytest.fixture
def compiled_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has the kernel compiled with these flags in the place of -march=native."""

    def choose(*flags: str) -> None:
        others = tuple(flag for flag in cpu.FLAGS if not flag.startswith("-march"))
        monkeypatch.setattr(cpu, "FLAGS", (*others, *flags))
        cpu.load.cache_clear()

    yield choose
    cpu.load.cache_clear()


@pytest.fixture
def fresh_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been given up yet, and nothing stays so."""
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])
