"""Whom ``hope eval needle``, ``babilong`` and ``continual`` measure: checkpoints, or what a server serves."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hope_model.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from hope_kernels.quantized_linear import Bits
    from hope_model.evaluate.sessions.asking import ServedSubject, Subject
    from hope_model.evaluate.subject import Find

OpenServer = Callable[[str, "str | None"], "AbstractContextManager[ServedSubject]"]
"""From a server's address and key to what it serves; the command `hope` has it, with its client."""


@dataclass(frozen=True)
class Named:
    """One model. weights: hash of the checkpoint's weights; None for a server's. open: loads it."""

    name: str
    weights: str | None
    open: Callable[[], AbstractContextManager[Subject]]


def add_subjects(
    parser: argparse.ArgumentParser, name: str, conditions: Sequence[str] = ("on", "off")
) -> None:
    """The arguments that say who is measured, where the results of ``name`` go, and how sessions read.

    Args:
        conditions: those that are measured by default.
    """
    parser.add_argument(
        "--model", action="append", help="name or folder, once for each model (default: hope-tiny)"
    )
    parser.add_argument("--url", help="a running Hope server instead; its key is in HOPE_API_KEY")
    parser.add_argument(
        "--origin",
        choices=("text", "user"),
        default="text",
        help="pre-trained models: read as plain text or as a user's words, which teach more "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"for {name}.md, .json, .png; resumes from .jsonl",
    )
    parser.add_argument(
        "--conditions",
        nargs="+",
        choices=("on", "off", "context"),
        default=list(conditions),
        help=f"learning; context: what was read is in the prompt (default: {' '.join(conditions)})",
    )
    add_quantize(parser)


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """``--quantize``, as of ``hope serve``; for ``hope_model.attention.quantize.bits_of``."""
    parser.add_argument(
        "--quantize",
        choices=("none", "int8", "int4"),
        default="none",
        help="keep the slow weights of a pre-trained model in so few bits (default: %(default)s)",
    )


@contextmanager
def named_subjects(
    args: argparse.Namespace, find: Find | None, open_server: OpenServer | None
) -> Iterator[list[Named]]:
    """The models that the arguments name, not yet loaded.

    Raises:
        ConfigError: arguments that do not fit together.
        CheckpointError: no such model.
        EvaluationError: no such server.
    """
    if args.url is None:
        models = _distinct(args.model or ["hope-tiny"])
        yield [_local(name, find, args.origin, args.quantize) for name in models]
        return
    if args.model:
        raise ConfigError("model: expected without --url, whose server has one model, found with it")
    if args.origin != "text":
        raise ConfigError("origin: expected 'text' with --url, as /v1/completions reads, found 'user'")
    if args.quantize != "none":
        raise ConfigError(f"quantize: expected a model of this process, found {args.quantize} with --url")
    if open_server is None:
        raise ConfigError("url: expected the command `hope`, which has the client, found none")
    with open_server(args.url, os.environ.get("HOPE_API_KEY")) as served:
        yield [Named(served.name, None, lambda: _kept(served))]


def _distinct(names: list[str]) -> list[str]:
    if len({_short(name) for name in names}) < len(names):
        raise ConfigError(f"model: expected models of distinct names, found {', '.join(names)}")
    return names


def _short(name: str) -> str:
    return Path(name).name or name


def _local(name: str, find: Find | None, origin: str, quantize: str) -> Named:
    from hope_model.attention.quantize import bits_of, require_unquantized
    from hope_model.evaluate.recall_cli import locate
    from hope_model.evaluate.subject import is_attention

    folder, bits = locate(find, name), bits_of(quantize)
    if not is_attention(folder):
        require_unquantized(folder, bits)
    if origin != "text" and not is_attention(folder):
        raise ConfigError(
            f"origin: expected 'text' for {name}, in which all that is read teaches, found 'user'"
        )
    return Named(_short(name), _sha256(folder / "model.safetensors"), lambda: _loaded(folder, origin, bits))


@contextmanager
def _loaded(folder: Path, origin: str, quantize: Bits | None) -> Iterator[Subject]:
    from hope_model.evaluate.subject import is_attention

    if is_attention(folder):
        from hope_model.attention.checkpoint import load_attention_checkpoint
        from hope_model.evaluate.sessions.attention import AttentionSubject

        yield AttentionSubject(load_attention_checkpoint(folder, quantize=quantize), origin=origin)
    else:
        from hope_model.checkpoint import load_checkpoint
        from hope_model.evaluate.sessions.hope import HopeSubject

        yield HopeSubject(*load_checkpoint(folder))


@contextmanager
def _kept(served: Subject) -> Iterator[Subject]:
    yield served


def file_named(path: Path) -> dict[str, str | None]:
    """A file by its name and content, so that another one is not taken for it."""
    return {"name": path.name, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
