"""Runs a chat template where it can do no harm: in a process of its own that may be killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hope_server.chat.format import Message
from hope_server.errors import ChatTemplateError

CPU_S = 3
"""Processor time for all renderings, the start of the interpreter included."""
WALL_S = 60.0
"""Real time: a busy machine is not the template's fault, a process that waits for ever is."""
MEMORY_BYTES = 512 << 20
"""Address space; the interpreter alone takes a tenth of it."""
MAX_SOURCE_CHARS = 1 << 18

_WORKER = Path(__file__).with_name("render_worker.py")


class Rendering(NamedTuple):
    """A rendered conversation, or why the template does not render it."""

    text: str
    error: str | None = None


def render_all(
    source: str,
    conversations: Sequence[Sequence[Message]],
    *,
    nonce: str,
    variables: Mapping[str, str],
    cpu_s: int = CPU_S,
) -> list[Rendering]:
    """Every conversation as the Jinja template `source` renders it, with the answer opened.

    Args:
        nonce: Marks dates: U+E000, nonce, the format, U+E001 stands where the template writes a date.
        variables: The names of transformers' special tokens (`bos_token`, ...) and their texts.
        cpu_s: Seconds of processor time for all of it.

    Raises:
        ChatTemplateError: `source` is no template, does not render the first conversation, or takes more
            time or memory than it may.
    """
    if (size := len(source)) > MAX_SOURCE_CHARS:
        raise ChatTemplateError(
            f"chat template: expected at most {MAX_SOURCE_CHARS} characters, found {size}"
        )
    task = {
        "source": source,
        "conversations": [[{"role": m.role, "content": m.text} for m in chat] for chat in conversations],
        "variables": dict(variables),
        "nonce": nonce,
        "cpu_s": cpu_s,
        "memory_bytes": MEMORY_BYTES,
    }
    answer = _run(json.dumps(task), cpu_s)
    if "error" in answer:
        raise ChatTemplateError(f"chat template: {answer['error']}")
    return [Rendering(found.get("text", ""), found.get("error")) for found in answer["renderings"]]


def _run(task: str, cpu_s: int) -> dict[str, Any]:
    command = [sys.executable, "-I", str(_WORKER)]
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, text=True, encoding="utf-8", env={}, timeout=WALL_S
        )
    except subprocess.TimeoutExpired:
        raise ChatTemplateError(f"chat template: it is not rendered within {WALL_S:g} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise ChatTemplateError(f"chat template: it needs more than {cpu_s} s of processor time")
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2][:300]
        raise ChatTemplateError(f"chat template: its process ended with status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
