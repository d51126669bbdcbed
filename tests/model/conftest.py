"""What tests of models share."""

from __future__ import annotations

import pytest

from hope_kernels import dispatch
from hope_model.decoding.paths import PATHS

NEEDS = {"compiled": [pytest.mark.compiler]}


@pytest.fixture(params=[pytest.param(name, marks=NEEDS.get(name, [])) for name in sorted(PATHS)])
def path(request: pytest.FixtureRequest) -> str:
    """Each way to decode a token."""
    name: str = request.param
    return name


@pytest.fixture
def fresh_dispatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been given up yet, and nothing stays so."""
    monkeypatch.setattr(dispatch, "_given_up", {})
    monkeypatch.setattr(dispatch, "_observers", [])
