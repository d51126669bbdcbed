"""Bounded reading and hashing of files that others wrote."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hope_model.convert.fields import Fields
from hope_model.convert.progress import Progress
from hope_model.errors import ConversionError

_BLOCK_BYTES = 1 << 20


def read_text(path: Path, limit: int) -> str:
    """A file's text.

    Raises:
        ConversionError: missing, more than ``limit`` bytes, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise ConversionError(f"{path}: expected at most {limit} bytes, found more")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path}: expected UTF-8, found {error}") from error


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The object that a JSON text is; ConversionError for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{where}: expected JSON, found {error}") from error
    if not isinstance(data, dict):
        raise ConversionError(f"{where}: expected an object, found {type(data).__name__}")
    return data


def read_fields(path: Path, limit: int, *, required: bool = True) -> Fields:
    """A JSON object's fields; none of them where a file that is not required is missing."""
    if not required and not path.is_file():
        return Fields({}, path.name)
    return Fields(parse_object(read_text(path, limit), str(path)), path.name)


def sha256_of(path: Path, progress: Progress) -> str:
    """Hex hash of a file's bytes; raises ConversionError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                progress(f"checking {path.name}", file.tell(), total)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()
