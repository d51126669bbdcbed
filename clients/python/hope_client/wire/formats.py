"""The form that an answer is to have: `response_format`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from hope_client.wire.base import MAX_TEXT_CHARS, Request

MAX_SCHEMA_FIELDS = 1_024

Schema = Annotated[dict[str, Any], Field(max_length=MAX_SCHEMA_FIELDS)]
"""A JSON schema; what it may say is the server's to judge."""
SchemaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class TextFormat(Request):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Request):
    """One JSON object."""

    type: Literal["json_object"]


class NamedSchema(Request):
    """A JSON schema. The answer keeps to it whether or not it is called strict."""

    name: SchemaName
    description: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] | None = None
    schema_: Schema | None = Field(default=None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Request):
    """One JSON value that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
