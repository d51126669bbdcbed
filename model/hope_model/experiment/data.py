"""The experiment's own text: a part of the pre-training sets, some documents kept out of training.

Which side a document is on is a function of its bytes alone, so that a copy of it is on the same side.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from hope_model.errors import DataError
from hope_model.experiment.settings import ExperimentSettings, sha256_of
from hope_model.tokenizer import Tokenizer
from hope_model.train.documents import DocumentStream
from hope_model.train.mixture import Source, builtin_mixture
from hope_model.train.shards import RawRow, read_rows

BYTES_PER_TOKEN = 4.5
SURPLUS = 4.0
"""So many times the bytes that a run reads are cut, so that other seeds read other parts."""
TRAIN, HELDOUT, RECORD = "train", "heldout", "prepared.json"


@dataclass(frozen=True)
class ExperimentData:
    """Sources to train and to judge on, by the same names and weights; ``files``: sha256 of the originals."""

    train: tuple[Source, ...]
    heldout: tuple[Source, ...]
    files: dict[str, str]


def prepare(folder: Path | None, work: Path, settings: ExperimentSettings) -> ExperimentData:
    """Read what was split into ``work`` before, or split the sets in ``folder`` now.

    Without a folder the text must have been split before, here or on another machine.

    Raises:
        DataError: a set or a shard is missing or broken, or the text in ``work`` is missing, or of other
        shards or settings.
    """
    mixture, record = builtin_mixture(settings.mixture), work / RECORD
    sources = mixture.sources()
    wanted: dict[str, Any] = {"share": settings.heldout_share, "tokens": settings.tokens}
    if folder is not None:
        sources = mixture.resolve(folder)
        wanted["files"] = {path.name: sha256_of(path) for source in sources for path in source.shards}
        if not record.exists():
            _split_all(sources, work, settings, wanted)
    found = _read_record(record)
    if any(found.get(name) != value for name, value in wanted.items()):
        raise DataError(
            f"{work}: expected text split from these shards with these settings, found that of others; "
            "use another --work folder"
        )
    for path in _parts(sources, work):
        if not path.exists() or sha256_of(path) != found["parts"].get(path.name):
            raise DataError(f"{path}: expected the text as it was split, found it changed; remove {work}")
    return ExperimentData(
        tuple(replace(source, shards=(work / f"{source.name}.{TRAIN}.jsonl.zst",)) for source in sources),
        tuple(
            replace(source, shards=(work / f"{source.name}.{HELDOUT}.jsonl.zst",), max_epochs=1)
            for source in sources
        ),
        found["files"],
    )


def heldout_rows(
    data: ExperimentData, tokenizer: Tokenizer, settings: ExperimentSettings
) -> list[tuple[str, float, Tensor]]:
    """``(set, weight, tokens [B, T + 1])`` of every set that has enough held-out text for a row.

    Every set has a row, the rest are the books'; a set's rows lie evenly over its text. Weights add up to 1.
    """
    length = settings.evaluation.heldout_tokens + 1
    books = [source for source in data.heldout if source.format == "book"] or list(data.heldout)
    extra = max(0, settings.evaluation.heldout_rows - len(data.heldout)) // len(books)
    found = []
    for source in data.heldout:
        count = 1 + extra * (source in books)
        ids = _first_tokens(source, tokenizer, 4 * count * length)
        if len(ids) >= length:
            count = min(count, len(ids) // length)
            starts = np.linspace(0, len(ids) - length, count).astype(int)
            rows = np.stack([ids[start : start + length] for start in starts]).astype(np.int64)
            found.append((source.name, source.weight, torch.from_numpy(rows)))
    if not found:
        raise DataError(f"held-out text: expected {length} tokens of a set at least, found fewer")
    total = sum(weight for _, weight, _ in found)
    return [(name, weight / total, rows) for name, weight, rows in found]


def _first_tokens(
    source: Source, tokenizer: Tokenizer, enough: int
) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    stream = DocumentStream(source, tokenizer, seed=0, shuffle_bytes=1 << 26)
    parts, size = [], 0
    try:
        while size < enough and (document := stream.peek(0)) is not None:
            stream.take(1)
            parts.append(document)
            size += len(document)
    except DataError:
        if next(read_rows(source.shards[0]), None) is not None:
            raise
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _split_all(
    sources: Sequence[Source], work: Path, settings: ExperimentSettings, made_of: dict[str, Any]
) -> None:
    """Split every set, then note what the text is made of: without the note nothing has been split."""
    work.mkdir(parents=True, exist_ok=True)
    for source in sources:
        _split(source, work, settings)
    scratch = work / f".{RECORD}"
    parts = {path.name: sha256_of(path) for path in _parts(sources, work)}
    scratch.write_text(json.dumps({**made_of, "parts": parts}, indent=1) + "\n", encoding="utf-8")
    scratch.replace(work / RECORD)


def _split(source: Source, work: Path, settings: ExperimentSettings) -> None:
    """Write a set's two files: its first documents, until there is enough to train on."""
    enough = SURPLUS * BYTES_PER_TOKEN * settings.tokens * source.weight
    size = 0
    with ExitStack() as stack:
        writers = {}
        for kind in (TRAIN, HELDOUT):
            file = stack.enter_context((work / f"{source.name}.{kind}.jsonl.zst").open("wb"))
            writers[kind] = stack.enter_context(zstandard.ZstdCompressor(level=3).stream_writer(file))
        for row in _in_turn([read_rows(shard) for shard in source.shards]):
            held_out = (
                int(hashlib.sha256(row.text.encode()).hexdigest()[:8], 16) % settings.heldout_share == 0
            )
            kind = HELDOUT if held_out else TRAIN
            writers[kind].write(json.dumps({"text": row.text}).encode() + b"\n")
            size += len(row.raw)
            if size > enough:
                return


def _in_turn(streams: Sequence[Iterator[RawRow]]) -> Iterator[RawRow]:
    left = list(streams)
    while left:
        for stream in list(left):
            row = next(stream, None)
            if row is None:
                left.remove(stream)
            else:
                yield row


def _parts(sources: Sequence[Source], work: Path) -> list[Path]:
    return [work / f"{source.name}.{kind}.jsonl.zst" for source in sources for kind in (TRAIN, HELDOUT)]


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path.parent}: expected text that was split before, or a folder of sets to split")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(found.get(x), dict) for x in ("files", "parts")):
            raise ValueError("expected an object with files and parts")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return found
