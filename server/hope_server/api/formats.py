"""`response_format`: the grammar that an answer keeps to."""

from __future__ import annotations

from hope_client.wire import JsonSchemaFormat, TextFormat
from hope_client.wire.formats import ResponseFormat
from hope_server.api.runtime import Runtime
from hope_server.constrained import Grammar


async def grammar_of(runtime: Runtime, given: ResponseFormat | None) -> Grammar | None:
    """None for any text. Raises InvalidRequest for a schema that cannot be kept to."""
    if given is None or isinstance(given, TextFormat):
        return None
    schema = given.json_schema.schema_ if isinstance(given, JsonSchemaFormat) else None
    return await runtime.grammars.json_schema(schema, param="response_format")
