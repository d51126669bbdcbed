"""What a long measurement has found so far, on disk: it can be gone on with, and never mixes with another.

``NAME.jsonl`` has the settings in its first line and a record in every other. Records are appended as they
are found. The same measurement, started again, goes on behind them; another one is refused.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from hope_model.errors import ConfigError, DataError, EvaluationError

Record = dict[str, Any]
READER = ("model", "rule", "condition")
"""Fields of a record: who was measured, and how it read."""


class Ledger:
    """The records of one measurement, in the order in which they were found.

    Args:
        directory: made with the first record.
        name: of the measurement.
        settings: whatever makes it another measurement, as JSON has it.

    Raises:
        ConfigError: the directory holds results of other settings, or without their records.
        DataError: the records cannot be read; the message has the row.
    """

    def __init__(self, directory: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.directory, self.name, self.settings = directory, name, settings
        self._path = self.path("jsonl")
        self._file: IO[str] | None = None
        try:
            rows = self._rows()
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error}") from error
        if rows:
            self._compare(rows[0])
        else:
            self._refuse_strangers()
        self._begun = bool(rows)
        self.records: list[Record] = rows[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._file is not None:
            self._file.close()
        if isinstance(error, EvaluationError) and self.records:
            raise EvaluationError(
                f"{error}; what was found so far is in {self._path}: the same command goes on from there"
            ) from error

    def add(self, record: Record) -> None:
        """Keep ``record``, on disk before this returns. Raises DataError."""
        try:
            if self._file is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            if not self._begun:
                self._append(dict(self.settings), self._file)
                self._begun = True
            self._append(record, self._file)
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}") from error
        self.records.append(record)

    def path(self, suffix: str) -> Path:
        """Where the measurement has its file of this kind."""
        return self.directory / f"{self.name}.{suffix}"

    def write(self, figures: Mapping[str, Any], markdown: str) -> None:
        """Write ``NAME.json``, with ``figures`` between settings and records, and ``NAME.md``."""
        content = {**self.settings, **figures, "records": self.records}
        self.path("json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        self.path("md").write_text(markdown, encoding="utf-8")

    def find(self, **fields: object) -> Record | None:
        """The first record with these values."""
        wanted = fields.items()
        return next((each for each in self.records if all(each.get(k) == v for k, v in wanted)), None)

    @staticmethod
    def _append(record: Record, file: IO[str]) -> None:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())

    def _refuse_strangers(self) -> None:
        for suffix in ("json", "md", "png"):
            path = self.path(suffix)
            if path.exists():
                raise ConfigError(
                    f"--out: expected a directory without results, found {path.name} in {self.directory}"
                )

    def _rows(self) -> list[Record]:
        """What the file holds, settings first; a line without its end is cut off: its writer died in it."""
        raw = self._path.read_bytes() if self._path.exists() else b""
        whole = raw[: raw.rfind(b"\n") + 1]
        rows = []
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self._path.name}, row {number}: expected JSON, found {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{self._path.name}, row {number}: expected an object, found {str(row)[:80]}")
            rows.append(row)
        if len(whole) < len(raw):
            os.truncate(self._path, len(whole))
        return rows

    def _compare(self, found: Record) -> None:
        expected = json.loads(json.dumps(dict(self.settings)))
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise ConfigError(
                    f"--out: {self.directory} holds results of other settings: expected {name} "
                    f"{_short(expected.get(name))}, found {_short(found.get(name))}; name another directory"
                )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def of(records: Sequence[Record], **fields: object) -> list[Record]:
    """The records with these values."""
    return [each for each in records if all(each.get(k) == v for k, v in fields.items())]


def distinct(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """The values of these fields that occur together, in the order of their first coming."""
    found = dict.fromkeys(tuple(each[name] for name in names) for each in records)
    return [dict(zip(names, values, strict=True)) for values in found]
