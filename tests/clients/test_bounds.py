"""Every number, text and list that a request may hold has a bound, read off the schemas themselves."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from hope_client import wire

MODELS = [
    model
    for _, model in inspect.getmembers(wire, inspect.isclass)
    if issubclass(model, wire.Request) and model is not wire.Request
]


def loose(schema: Any, definitions: dict[str, Any], place: str) -> Iterator[str]:
    """The places of a schema where a value may grow without a bound."""
    if "$ref" in schema:
        return  # each definition is looked at once, by itself
    for index, each in enumerate(schema.get("anyOf", [])):
        yield from loose(each, definitions, f"{place}|{index}")
    for index, each in enumerate(schema.get("oneOf", [])):
        yield from loose(each, definitions, f"{place}|{index}")
    kind = schema.get("type")
    if not {"type", "anyOf", "oneOf", "enum", "const", "$ref"} & schema.keys():
        yield place
    fixed = "const" in schema or "enum" in schema
    if kind == "string" and not fixed and not {"maxLength", "pattern"} & schema.keys():
        yield place
    if kind in ("integer", "number") and not fixed:
        ends = [{"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}]
        if not all(end & schema.keys() for end in ends):
            yield place
    if kind == "array":
        if "maxItems" not in schema:
            yield place
        yield from loose(schema["items"], definitions, f"{place}[]")
    if kind == "object":
        if schema.get("additionalProperties", True) is not False and "maxProperties" not in schema:
            yield place
        for pattern, each in schema.get("patternProperties", {}).items():
            yield from loose(each, definitions, f"{place}.{pattern}")
        for name, each in schema.get("properties", {}).items():
            yield from loose(each, definitions, f"{place}.{name}")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_bounded(model: type[wire.Request]) -> None:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    found = list(loose(schema, definitions, model.__name__))
    for name, definition in definitions.items():
        found += loose(definition, definitions, name)
    assert found == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_an_option_that_is_not_served_takes_its_neutral_values_alone(model: type[wire.Request]) -> None:
    for name, schema in model.model_json_schema()["properties"].items():
        if "enum" not in schema or None not in schema["enum"]:
            continue
        with pytest.raises(ValueError, match="only"):
            model.model_validate({name: ["x" * 1000] * 1000})


def test_there_are_models_to_look_at() -> None:
    names = {model.__name__ for model in MODELS}
    assert {"CompletionRequest", "ChatCompletionRequest", "ChatMessage", "SessionCreate"} <= names


def test_the_check_sees_what_it_looks_for() -> None:
    properties = {
        "text": {"type": "string"},
        "number": {"type": "integer", "minimum": 0},
        "items": {"type": "array", "items": {"type": "number"}},
        "any": {},
        "open": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    }
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    assert list(loose(schema, {}, "m")) == [
        "m.text",
        "m.number",
        "m.items",
        "m.items[]",
        "m.any",
        "m.open|0",
    ]
