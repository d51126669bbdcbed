"""Grammars over the tests' tokenizer: whatever is drawn from what is allowed keeps to them."""

import json
import random
from typing import Any

import pytest
from tests.server.api.conftest import ByteTokenizer

from hope_server.constrained import Constraint, Grammars
from hope_server.errors import InvalidRequest

ENDS = frozenset({ByteTokenizer.eos_id, ByteTokenizer.end_id})
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(ByteTokenizer(), ENDS)


def allowed(constraint: Constraint) -> list[int]:
    mask = constraint.allowed()
    return [token for token in range(ByteTokenizer.vocab_size) if mask[token // 8] >> token % 8 & 1]


def drawn(constraint: Constraint, seed: int, *, most: int = 500) -> str:
    """A random walk to the grammar's end."""
    chance, tokens = random.Random(seed), []
    while not constraint.over:
        tokens.append(chance.choice(allowed(constraint)))
        constraint.accept(tokens[-1])
        assert len(tokens) < most
    assert tokens[-1] in ENDS
    return ByteTokenizer().decode_bytes(tokens).decode()


@pytest.mark.parametrize("seed", range(20))
async def test_any_draw_fits_the_schema(grammars: Grammars, seed: int) -> None:
    grammar = await grammars.json_schema(SCHEMA, param="response_format")
    found = json.loads(drawn(grammar.constraint(), seed))
    assert found.keys() == {"name", "age", "kind"}
    assert len(found["name"]) <= 5
    assert 0 <= found["age"] <= 150
    assert found["kind"] in ("cat", "dog")


async def test_a_turn_s_constraint_is_its_own(grammars: Grammars) -> None:
    grammar = await grammars.json_schema(None, param="response_format")
    one, other = grammar.constraint(), grammar.constraint()
    one.accept(6 + ord("{"))
    assert 6 + ord("}") in allowed(one)
    assert 6 + ord("}") not in allowed(other)
    assert not ENDS & {*allowed(one)}


async def test_an_object_ends_where_it_is_complete(grammars: Grammars) -> None:
    constraint = (await grammars.json_schema(None, param="response_format")).constraint()
    for byte in b'{"a": 1}':
        constraint.accept(6 + byte)
    assert set(allowed(constraint)) == ENDS


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "http://x/y"}, {"type": "string", "pattern": "("}]
)
async def test_what_is_no_schema_is_refused(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await grammars.json_schema(schema, param="response_format")
    assert (refused.value.code, refused.value.param) == ("invalid_schema", "response_format")


async def test_without_the_library_a_request_is_told_which_extra_is_missing(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(InvalidRequest, match="structured") as refused:
        await grammars.json_schema(None, param="response_format")
    assert refused.value.code == "unsupported_value"
