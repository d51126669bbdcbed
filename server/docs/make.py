"""Writes SETTINGS.md from the settings class and API.md from the API's description; --check only compares.

python server/docs/make.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI
from pydantic.fields import FieldInfo

from hope_server.api import ROUTERS
from hope_server.api.openapi import describe
from hope_server.config import ServerConfig, flag, variable

FOLDER = Path(__file__).parent
MADE_BY = "<!-- Made by server/docs/make.py: change what it reads, then run it. -->\n"
MADE_AT_START = {"data_dir": "`hope` in the user's state directory", "threads": "the cores it may use"}
JSON = "application/json"
WIDTH = 110


def settings() -> str:
    """Every setting: flag, variable, values, default, meaning."""
    rows = [_setting(name, field) for name, field in ServerConfig.model_fields.items()]
    head = (
        "# Settings of `hope serve`\n\n"
        "A flag wins over a variable, a variable over the default. A value that does not fit stops the "
        "start and names the setting. Where traces go is said by the standard `OTEL_*` variables; the keys "
        "that seal sessions come from `HOPE_ENCRYPTION_KEYS` or a file (`SECURITY.md`).\n\n"
    )
    return MADE_BY + head + _table(("flag", "variable", "values", "default", ""), rows)


def reference() -> str:
    """Every operation with its examples, then every schema."""
    app = FastAPI(title="Hope Serve")
    for router in ROUTERS:
        app.include_router(router)
    document = describe(app)
    lines = [
        MADE_BY,
        "# API\n",
        f"{document['info']['description']} A running server has all of it at `/openapi.json`.\n",
    ]
    tag = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if tag != (tag := operation["tags"][0]):
                lines.append(f"## {tag.capitalize()}\n")
            lines += _operation(method.upper(), path, operation)
    lines.append("## Schemas\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines)


def _setting(name: str, field: FieldInfo) -> tuple[str, ...]:
    default = field.default
    if name in MADE_AT_START:
        shown = MADE_AT_START[name]
    elif default is None or isinstance(default, bool):
        shown = {None: "", True: "on", False: "off"}[default]
    else:
        shown = f"`{default}`"
    named = f"`{flag(name)}`" + (f", `--no{flag(name)[1:]}`" if isinstance(default, bool) else "")
    return (
        named,
        f"`{variable(name)}`" + (", `REDIS_URL`" if name == "redis_url" else ""),
        _values(field),
        shown,
        field.description or "",
    )


def _values(field: FieldInfo) -> str:
    choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = {
        key: getattr(one, key) for one in field.metadata for key in ("gt", "ge", "le") if hasattr(one, key)
    }
    signs = {"gt": "more than", "ge": "from", "le": "to"}
    return " ".join(f"{signs[key]} {bound:,}" for key, bound in bounds.items())


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### {operation['summary']}\n"
    yield f"`{method} {path}`\n"
    yield f"{operation['description']}\n"
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"`{one['name']}`",
                one["in"],
                _type(one["schema"]),
                "" if one["required"] else _default(one["schema"]),
            )
            for one in parameters
        ]
        yield _table(("parameter", "in", "type", "default"), rows)
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        yield f"Body: {_type(content['schema']) if kind == JSON else f'`{kind}`'}.\n"
        for name, example in content.get("examples", {}).items():
            yield f"{name}:\n"
            yield _code(example["value"])
    for kind, content in operation["responses"]["200"].get("content", {}).items():
        yield f"Answer: {_type(content['schema']) if kind == JSON else f'`{kind}`'}.\n"
        if "example" in content:
            yield _code(content["example"])


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield " ".join(schema["description"].split()) + "\n"
    if "enum" in schema:
        yield _type(schema) + "\n"
    required = schema.get("required", ())
    rows = [
        (
            f"`{key}`",
            _type(one),
            "required" if key in required else _default(one),
            _one_line(one.get("description", "")),
        )
        for key, one in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(("field", "type", "default", ""), rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    named: str = schema.get("type", "anything")
    least, most = schema.get("minimum"), schema.get("maximum")
    return named + (f" {least:,} to {most:,}" if least is not None and most is not None else "")


def _default(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if schema.get("default") is not None else ""


def _code(example: object) -> str:
    if isinstance(example, str):
        return f"```\n{example.strip()}\n```\n"
    return f"```json\n{_json(example)}\n```\n"


def _json(value: object, depth: int = 0) -> str:
    """On one line what fits there."""
    whole = json.dumps(value, ensure_ascii=False)
    if len(whole) + 2 * depth <= WIDTH or not isinstance(value, dict | list):
        return whole
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_json(one, depth + 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{outer}}}"
    return "[\n" + ",\n".join(inner + _json(one, depth + 1) for one in value) + f"\n{outer}]"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(_one_line(cell) for cell in line)} |\n" for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """The exit status: 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Make the reference of settings and API.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would change")
    check, stale = parser.parse_args().check, False
    for name, text in {"SETTINGS.md": settings(), "API.md": reference()}.items():
        file = FOLDER / name
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{file}: not what {__file__} makes", file=sys.stderr)
            stale = True
        else:
            file.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
