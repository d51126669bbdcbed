"""The HTTP surface on a real server, fuzzed from its own description: no request is the server's fault."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SHORT = ("--max-output-tokens", "4", "--default-output-tokens", "4", "--max-prompt-tokens", "64")


class Surface:
    """A running server, its description, and a session of it that is made again when it is gone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked = self.operations_asked = 0
        self.statuses: set[int] = set()
        self.schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
        self._session = ""

    @property
    def session(self) -> str:
        if httpx.get(f"{self.url}/v1/sessions/{self._session or 'none'}").status_code == 404:
            self._session = httpx.post(f"{self.url}/v1/sessions").json()["id"]
        return self._session

    def operations(self) -> Iterator[Any]:
        for found in self.schema.get_all_operations():
            assert isinstance(found, Ok), found
            yield found.ok()

    def ask(self, case: Any, *, own: bool, checks: list[Any]) -> None:
        """Send `case`, to a session that exists if `own`."""
        if own and "session_id" in (case.path_parameters or {}):
            case.path_parameters["session_id"] = self.session
        if own and isinstance(case.body, dict) and "session_id" in case.body:
            case.body["session_id"] = self.session
        answer = case.call(base_url=self.url, timeout=60)
        self.asked += 1
        self.statuses.add(answer.status_code)
        case.validate_response(answer, checks=checks)


def fuzz(surface: Surface, mode: GenerationMode, examples: int) -> None:
    checks = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS
    for operation in surface.operations():
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
        @given(case=strategy, own=st.booleans())
        def check(case: Any, own: bool) -> None:
            surface.ask(case, own=own, checks=checks)

        try:
            check()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "an operation that takes anything cannot be asked wrongly"
        else:
            surface.operations_asked += 1


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda m: m.name)
@pytest.mark.parametrize("examples", [10, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_request_is_the_server_s_fault(start_server: Any, mode: GenerationMode, examples: int) -> None:
    server = start_server(*SHORT)
    surface = Surface(server.url)
    fuzz(surface, mode, examples)
    assert surface.operations_asked >= 5
    assert surface.asked >= 5 * examples
    assert surface.statuses > ({200} if mode is GenerationMode.POSITIVE else {400, 404})
    assert "unexpected error" not in server.log()
    assert server.stop() == 0
