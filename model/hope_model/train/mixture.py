"""Mixture files: which shards a run reads, how much of each, and under which licence.

A mixture is JSON: {"sets": [{"name", "glob", "weight", "format", "licence", "max_epochs"?}, ...]}. Weights
are shares of tokens and are normalised; `glob` is relative to the data directory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from hope_model.errors import DataError
from hope_model.train.shards import SUFFIXES

Format = Literal["book", "text", "dialogue"]
_REQUIRED = frozenset({"name", "glob", "weight", "format", "licence"})
_ALLOWED = _REQUIRED | {"max_epochs"}


@dataclass(frozen=True, slots=True)
class MixtureSet:
    """One set of a mixture.

    `format`: "book" documents are read alone, "text" and "dialogue" documents are joined into runs, and
    "dialogue" rows become chat messages. `max_epochs`: passes after which the set is used up; None: no limit.
    """

    name: str
    glob: str
    weight: float
    format: Format
    licence: str
    max_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A set with the shard files that it stands for; `weight` is a share, all shares add up to 1."""

    name: str
    format: Format
    weight: float
    shards: tuple[Path, ...]
    max_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """The sets that a training run draws from."""

    sets: tuple[MixtureSet, ...]

    def resolve(self, directory: Path) -> tuple[Source, ...]:
        """Find the shards of every set under `directory`; raises DataError for a set without files."""
        sources = []
        for source, item in zip(self.sources(), self.sets, strict=True):
            shards = tuple(sorted(path for path in directory.glob(item.glob) if path.is_file()))
            if not shards:
                raise DataError(f"set {item.name!r}: no file in {directory} matches {item.glob!r}")
            sources.append(replace(source, shards=shards))
        return tuple(sources)

    def sources(self) -> tuple[Source, ...]:
        """The sets with their shares, without files."""
        total = sum(item.weight for item in self.sets)
        return tuple(
            Source(item.name, item.format, item.weight / total, (), item.max_epochs) for item in self.sets
        )


def load_mixture(path: Path) -> Mixture:
    """Read and check a mixture file; raises DataError."""
    try:
        return parse_mixture(path.read_text(encoding="utf-8"), origin=path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: cannot be read: {error}") from error


def builtin_mixture(name: str) -> Mixture:
    """A mixture shipped with the package, by name ("core"); raises DataError that lists the known names."""
    folder = resources.files("hope_model.train") / "mixtures"
    files = [entry.name for entry in folder.iterdir()]
    known = sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))
    if name not in known:
        raise DataError(f"mixture: expected one of {', '.join(known)}, found {name!r}")
    return parse_mixture((folder / f"{name}.json").read_text(encoding="utf-8"), origin=name)


def parse_mixture(text: str, *, origin: str) -> Mixture:
    """Check the JSON of a mixture; `origin` names it in errors. Raises DataError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{origin}: expected JSON, found {error}") from error
    rows = content.get("sets") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f'{origin}: expected {{"sets": [...]}} with at least one set')
    sets = tuple(_parse_set(row, f"{origin}: set {number}") for number, row in enumerate(rows))
    names = [item.name for item in sets]
    if len(set(names)) != len(names):
        raise DataError(f"{origin}: expected distinct set names, found {names}")
    return Mixture(sets)


def sources_of(paths: Sequence[Path], format: Format = "text") -> tuple[Source, ...]:
    """One source over the given shard files, in place of a mixture."""
    if not paths:
        raise DataError("shards: expected at least one file")
    return (Source("shards", format, 1.0, tuple(paths)),)


def shards_of(directory: Path) -> tuple[Source, ...]:
    """Every shard file in ``directory`` as one source of texts; raises DataError when there is none."""
    shards = sorted(path for path in directory.glob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    if not shards:
        raise DataError(f"{directory}: expected files that end in {', '.join(SUFFIXES)}, found none")
    return sources_of(shards)


def _parse_set(row: Any, where: str) -> MixtureSet:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    if not row.keys() >= _REQUIRED or not row.keys() <= _ALLOWED:
        raise DataError(
            f"{where}: expected the keys {sorted(_REQUIRED)} (and max_epochs), found {sorted(row)}"
        )
    for key in ("name", "glob", "licence"):
        if not isinstance(row[key], str) or not row[key]:
            raise DataError(f"{where}: {key}: expected a text, found {row[key]!r}")
    if row["format"] not in get_args(Format):
        raise DataError(f"{where}: format: expected one of {get_args(Format)}, found {row['format']!r}")
    weight, epochs = row["weight"], row.get("max_epochs")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise DataError(f"{where}: weight: expected a number above 0, found {weight!r}")
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
        raise DataError(f"{where}: max_epochs: expected a whole number from 1, found {epochs!r}")
    return MixtureSet(row["name"], row["glob"], float(weight), row["format"], row["licence"], epochs)
