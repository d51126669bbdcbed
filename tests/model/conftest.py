"""What tests of models share."""

from __future__ import annotations

import pytest

from hope_model.decoding.paths import PATHS


@pytest.fixture(params=sorted(PATHS))
def path(request: pytest.FixtureRequest) -> str:
    """Each way to decode a token."""
    name: str = request.param
    return name
