"""Files of rows, ``.jsonl``: read whole, a broken row named before anything is measured."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hope_model.errors import DataError

Row = Mapping[str, Any]
T = TypeVar("T")
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN_CHARS = 300


class RowError(Exception):
    """What a row was expected to hold; the reader of the file adds its name and number."""


def parse_rows(path: Path, parse: Callable[[Row], T], limit: int | None = None) -> list[T]:
    """What ``parse`` makes of the rows, of the first ``limit`` of them.

    Raises:
        DataError: the file cannot be read or has no row, or a row is broken; the message has its number and
        what was expected.
    """
    parsed: list[T] = []
    for number, line in enumerate(read_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        if limit is not None and len(parsed) == limit:
            break
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise RowError(f"an object, found {str(row)[:80]}")
            if _HALF_A_PAIR.search(line):
                json.dumps(row, ensure_ascii=False).encode()
            parsed.append(parse(row))
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path.name}, row {number}: expected valid Unicode, found half a surrogate pair"
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name}, row {number}: expected JSON, found {error}") from error
        except RowError as error:
            # A row may be of megabytes, and so may what was found in it.
            raise DataError(f"{path.name}, row {number}: expected {str(error)[:_SHOWN_CHARS]}") from error
    if not parsed:
        raise DataError(f"{path.name}: expected one row at least, found none")
    return parsed


def read_file(path: Path) -> str:
    """The text of a file, its lines ended by line feeds; raises DataError, with the row that is not UTF-8."""
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        found = f"{raw[error.start]:#04x}"
        raise DataError(f"{path.name}, row {row}: expected UTF-8, found byte {found}") from error


def text_of(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"a text as {name!r}, found {value!r}")
    return value


def texts_of(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise RowError(f"a list of texts as {name!r}, found {value!r}")
    return value


def number_of(row: Row, name: str) -> int:
    value = row.get(name)
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if type(value) is not int:
        raise RowError(f"a whole number as {name!r}, found {value!r}")
    return value
