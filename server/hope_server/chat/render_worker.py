"""Renders a chat template: the program of the process that `sandbox` starts and may kill at any time.

A template is a program that came with a checkpoint. It runs in Jinja's sandbox as transformers runs it, in a
process without environment, with little memory and processor time. This file is run by its path and imports
nothing of its package. It reads a JSON object, the arguments of `answer`, and writes what that returns.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 1 << 16
"""Characters of one rendering."""
_REASON_CHARS = 300
_DATE_FORMAT = re.compile(r"(?:[^%\ue000\ue001]|%-?[A-Za-z%]){1,64}")


def answer(
    source: str,
    conversations: list[list[dict[str, str]]],
    variables: dict[str, str],
    nonce: str,
    cpu_s: int,
    memory_bytes: int,
) -> dict[str, Any]:
    """`{"error": why the template is none}` or `{"renderings": [{"text": ...} or {"error": ...}, ...]}`.

    A template that cannot render the first conversation is none. A date that it asks for is rendered as
    U+E000, nonce, the format, U+E001.
    """
    _limit(cpu_s, memory_bytes)
    try:
        template = _environment(nonce).from_string(source)
    except Exception as error:
        return {"error": _reason(error)}
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **variables}
    first = _rendering(template, conversations[0], given)
    if "error" in first:
        return first
    return {"renderings": [first, *(_rendering(template, chat, given) for chat in conversations[1:])]}


def _rendering(template: Template, messages: list[dict[str, str]], given: dict[str, Any]) -> dict[str, str]:
    chunks, size = [], 0
    try:
        for chunk in template.generate(messages=messages, **given):
            size += len(chunk)
            if size > MAX_CHARS:
                raise TemplateError(f"it writes more than {MAX_CHARS} characters")
            chunks.append(chunk)
        text = "".join(chunks)
        text.encode()  # half a surrogate pair is no text
    except Exception as error:
        return {"error": _reason(error)}
    return {"text": text}


class _Generation(Extension):
    """{% generation %} marks what to train on; it changes no text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration is an instance variable

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(nonce: str) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )

    def strftime_now(form: str) -> str:
        if not _DATE_FORMAT.fullmatch(form):
            raise TemplateError(f"expected a date format, found {form[:64]!r}")
        return f"\ue000{nonce}{form}\ue001"

    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=strftime_now)
    return environment


def _raise(message: str) -> None:
    raise TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        text = f"line {error.lineno}: {error.message}"
    elif isinstance(error, MemoryError):
        text = "it needs more memory than a template may have"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())[:_REASON_CHARS]


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on this system: the wall clock of `sandbox` remains
        return
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    except (OSError, ValueError):  # macOS refuses it
        return


if __name__ == "__main__":
    json.dump(answer(**json.load(sys.stdin)), sys.stdout)
