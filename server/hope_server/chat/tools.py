"""Tools as a model reads of them and calls them: JSON between tags, in the format that it was trained on.

Two formats are known. SmolLM2 is told by a system message and writes all calls of an answer as one list,
`<tool_call>[{...}, {...}]</tool_call>`. Models whose template has that tag (Hermes, Qwen) write one tag for
each call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 16
"""Of one answer that has to call tools."""
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n]{0,2}"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str | None
    parameters: Mapping[str, Any] | None

    @property
    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {key: value for key, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How one model is told of tools and calls them. listed: all calls of an answer stand in one tag."""

    listed: bool

    def instructions(self, tools: Sequence[Tool]) -> str:
        """What a system message says of the tools."""
        told = [tool.as_json for tool in tools]
        example = {"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}
        if self.listed:
            shown = f"<tools>{json.dumps(told)}</tools>"
            form = f"{OPEN}[{json.dumps(example)}]{CLOSE}"
        else:
            lines = "\n".join(json.dumps({"type": "function", "function": each}) for each in told)
            shown = f"<tools>\n{lines}\n</tools>"
            form = f"{OPEN}\n{json.dumps(example)}\n{CLOSE}"
        return (
            f"You have access to the following tools:\n{shown}\n\n"
            f"To call tools, answer with nothing but the calls, in exactly this form:\n{form}"
        )

    def written(self, content: str, calls: Sequence[ToolCall]) -> str:
        """An answer as the model writes it."""
        bodies = [json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}) for call in calls]
        if not bodies:
            return content
        if self.listed:
            return f"{content}{OPEN}[{', '.join(bodies)}]{CLOSE}"
        return content + "\n".join(f"{OPEN}\n{body}\n{CLOSE}" for body in bodies)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool) -> str:
        """An answer that is one call of one of `tools`, or more if `parallel`, in llguidance's Lark."""
        start, between, end = ("[", ", ", "]") if self.listed else ("\\n", f"\\n{CLOSE}\\n{OPEN}\\n", "\\n")
        more = f'("{between}" call){{0,{MAX_CALLS - 1}}}' if parallel else ""
        start = f'"{OPEN}{start}" call {more} "{end}{CLOSE}"'
        names = [f"call{index}" for index in range(len(tools))]
        rules = [
            f"{name}: %json {json.dumps(_call_schema(tool))}" for name, tool in zip(names, tools, strict=True)
        ]
        return "\n".join([f"start: {start}", f"call: {' | '.join(names)}", *rules])


def tool_format_of(template: str) -> ToolFormat | None:
    """The format of the model whose chat template this is; None where it is not known to have one."""
    if OPEN in template:
        return ToolFormat(listed=False)
    return ToolFormat(listed=True) if "SmolLM" in template else None


class ToolText:
    """Takes an answer apart as it comes: text that may be shown, and calls as they are complete.

    What stands in a tag and is no call is shown as the text that it is.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._inside = False

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """What `text` completes."""
        self._pending += text
        shown: list[str] = []
        calls: list[ToolCall] = []
        while True:
            if self._inside:
                body, tag, rest = self._pending.partition(CLOSE)
                if not tag:
                    break
                self._take(body, CLOSE, shown, calls)
                self._pending, self._inside = rest, False
            else:
                before, tag, rest = self._pending.partition(OPEN)
                if not tag:
                    held = _begun(self._pending)
                    shown.append(self._pending[: len(self._pending) - held])
                    self._pending = self._pending[len(self._pending) - held :]
                    break
                shown.append(before)
                self._pending, self._inside = rest, True
        return "".join(shown), calls

    def finish(self, text: str) -> tuple[str, list[ToolCall]]:
        """As `feed`, for the last text. A last call counts if only its closing tag is missing."""
        before, calls = self.feed(text)
        shown = [before]
        if self._inside:
            self._take(self._pending, "", shown, calls)
        else:
            shown.append(self._pending)
        self._pending, self._inside = "", False
        return "".join(shown), calls

    @staticmethod
    def _take(body: str, end: str, shown: list[str], calls: list[ToolCall]) -> None:
        try:
            calls += _calls(body)
        except (ValueError, RecursionError):
            shown.append(f"{OPEN}{body}{end}")


def take_apart(text: str) -> tuple[str, list[ToolCall]]:
    """A whole answer as its text and its calls."""
    return ToolText().finish(text)


def _calls(body: str) -> list[ToolCall]:
    found = json.loads(body)
    each: Any
    calls = []
    for each in found if isinstance(found, list) else [found]:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise ValueError("no call")
        arguments = each.get("arguments", {})
        if not isinstance(arguments, dict):
            raise ValueError("no arguments")
        calls.append(ToolCall(each["name"], json.dumps(arguments)))
    return calls


def _begun(text: str) -> int:
    """Length of the longest end of `text` that begins an opening tag."""
    return next((size for size in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:size])), 0)


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "x-guidance": _JSON_OPTIONS,
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or {"type": "object"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
