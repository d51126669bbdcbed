"""Documents in a shuffled order, and lanes of them that carry state and resume."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hope_model.errors import DataError
from hope_model.tokenizer import Tokenizer
from hope_model.train.data import Batch, LaneConfig, LaneReader
from hope_model.train.documents import DocumentStream
from hope_model.train.mixture import Source, builtin_mixture, sources_of
from hope_model.train.shards import read_rows

CORE = Path(__file__).parents[3] / "shared" / "pretrain" / "core"
WINDOW = 32
CONFIG = LaneConfig(run_tokens=200, reset_probability=0.1, shuffle_bytes=4000, prefetch=3)


def _words(rng: random.Random, count: int) -> str:
    syllables = ["ka", "lo", "mi", "tes", "run", "dor", "be", "sha", "ing", "ed", "the", "an"]
    return " ".join("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(count))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    rng = random.Random(5)
    return Tokenizer.train([_words(rng, 100) for _ in range(60)], 400)


def _write(path: Path, texts: list[str]) -> Path:
    raw = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    path.write_bytes(zstandard.ZstdCompressor().compress(raw) if path.suffix == ".zst" else raw)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, ...]:
    """Books in two shards, texts, and dialogues which are used up after two passes."""
    folder, rng = tmp_path_factory.mktemp("shards"), random.Random(1)
    books = [
        _write(folder / f"book.{n}.jsonl.zst", [f"Book {n}{i}. " + _words(rng, 500) for i in range(6)])
        for n in range(2)
    ]
    texts = _write(
        folder / "text.jsonl", [f"Text {i}. " + _words(rng, rng.randint(1, 60)) for i in range(70)]
    )
    talks = _write(
        folder / "talk.jsonl.zst",
        [f"User: {_words(rng, 5)}\nAssistant: {_words(rng, rng.randint(1, 20))}" for _ in range(40)],
    )
    return (
        Source("books", "book", 0.6, tuple(books)),
        Source("texts", "text", 0.3, (texts,)),
        Source("talks", "dialogue", 0.1, (talks,), max_epochs=2),
    )


def _reader(sources: tuple[Source, ...], tokenizer: Tokenizer, *, seed: int = 3, **config: Any) -> LaneReader:
    settings = LaneConfig(**{**{name: getattr(CONFIG, name) for name in CONFIG.__slots__}, **config})
    return LaneReader(sources, tokenizer, rows=5, window=WINDOW, seed=seed, config=settings)


def _take(reader: LaneReader, count: int) -> list[Batch]:
    with reader:
        return list(itertools.islice(reader, count))


def _same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.resets, b.resets) and a.sets == b.sets


def test_a_dialogue_is_rendered_with_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shard = _write(tmp_path / "talk.jsonl", ["User: ka <|end|> lo\nAssistant: mi"])
    stream = DocumentStream(sources_of([shard], "dialogue")[0], tokenizer, seed=0, shuffle_bytes=100)
    document = stream.peek(0)
    assert document is not None
    expected = [
        *tokenizer.encode_message("user", "ka <|end|> lo"),
        *tokenizer.encode_message("assistant", "mi"),
    ]
    assert document.tolist() == [*expected, tokenizer.eos_id]


def test_a_row_that_is_no_dialogue_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shard = _write(tmp_path / "talk.jsonl", ["Once upon a time"])
    with LaneReader(sources_of([shard], "dialogue"), tokenizer, rows=1, window=4, seed=0) as reader:
        for _ in range(2):
            with pytest.raises(DataError, match=r"talk\.jsonl: row 1: expected a line"):
                next(reader)


@pytest.mark.parametrize("shuffle_bytes", [1, 3000, 10**6])
def test_each_pass_gives_every_document_once(
    sources: tuple[Source, ...], tokenizer: Tokenizer, shuffle_bytes: int
) -> None:
    stream = DocumentStream(sources[0], tokenizer, seed=1, shuffle_bytes=shuffle_bytes)
    titles = []
    for _ in range(24):
        document = stream.peek(0)
        assert document is not None
        titles.append(tokenizer.decode(document.tolist())[:8])
        stream.take(1)
    assert len(set(titles[:12])) == 12
    assert sorted(titles[:12]) == sorted(titles[12:])
    assert shuffle_bytes == 1 or titles[:12] != titles[12:]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(taken=st.integers(0, 150), position=st.integers(0, 200))
def test_skipping_gives_what_reading_gives(
    sources: tuple[Source, ...], tokenizer: Tokenizer, taken: int, position: int
) -> None:
    read, skipped = (DocumentStream(sources[1], tokenizer, seed=1, shuffle_bytes=900) for _ in range(2))
    for stream, steps in ((read, max(taken, position)), (skipped, taken)):
        for _ in range(steps):
            stream.peek(0)
            stream.take(1)
    skipped.skip_to(position)
    a, b = read.peek(2), skipped.peek(2)
    assert a is not None
    assert b is not None
    assert read.position == skipped.position
    assert a.tolist() == b.tolist()


def test_a_lane_goes_on_where_its_window_ended(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    batches = _take(_reader(sources, tokenizer, reset_probability=0.0), 80)
    assert batches[0].resets.all()
    continued = 0
    for before, after in itertools.pairwise(batches):
        goes_on = ~after.resets
        continued += int(goes_on.sum())
        assert torch.equal(before.tokens[goes_on, -1], after.tokens[goes_on, 0])
    assert continued > 200


def test_a_book_stays_whole_in_its_lane(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    books = {row.text for shard in sources[0].shards for row in read_rows(shard)}
    runs: list[list[int]] = [[] for _ in range(5)]
    found = set()
    for batch in _take(_reader(sources, tokenizer, reset_probability=0.0), 200):
        for lane, (tokens, reset) in enumerate(
            zip(batch.tokens.tolist(), batch.resets.tolist(), strict=True)
        ):
            runs[lane] = ([] if reset else runs[lane]) + tokens[:-1]
            if tokenizer.eos_id in tokens[:-1] and batch.sets[lane] == "books":
                found.add(tokenizer.decode(runs[lane][: runs[lane].index(tokenizer.eos_id)]))
    assert found
    assert found <= books


def test_short_documents_are_read_whole_or_as_filler(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rng = random.Random(2)
    texts = [f"Text {i}. " + _words(rng, rng.randint(1, 60)) for i in range(50)]
    source = Source("texts", "text", 1.0, (_write(tmp_path / "t.jsonl", texts),), max_epochs=1)
    stream: list[int] = []
    with LaneReader([source], tokenizer, rows=1, window=WINDOW, seed=0, config=CONFIG) as reader:
        for batch in reader:
            stream += batch.tokens[0, :-1].tolist()
    read = tokenizer.decode([t if t != tokenizer.eos_id else tokenizer.encode("\n")[0] for t in stream])
    cut = [text for text in texts if f"{text}\n" not in read]
    assert len(cut) <= 1, "only the last document may be cut, at the last whole window"


def test_random_resets_have_their_rate(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    never = _take(_reader(sources, tokenizer, reset_probability=0.0), 400)
    some = _take(_reader(sources, tokenizer, reset_probability=0.1), 400)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(never, some, strict=True))
    inside = ~torch.stack([batch.resets for batch in never])
    rate = torch.stack([batch.resets for batch in some])[inside].double().mean().item()
    assert 0.07 < rate < 0.13


def test_the_shares_of_tokens_follow_the_weights(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    endless = tuple(Source(s.name, s.format, s.weight, s.shards) for s in sources)
    counts = Counter(name for batch in _take(_reader(endless, tokenizer), 1500) for name in batch.sets)
    for source in endless:
        assert counts[source.name] / counts.total() == pytest.approx(source.weight, abs=0.03)


def test_a_seed_fixes_the_order(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    first, again, other = (_take(_reader(sources, tokenizer, seed=seed), 60) for seed in (3, 3, 4))
    assert all(_same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.tokens, b.tokens) for a, b in zip(first, other, strict=True))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 100))
def test_a_resumed_reader_goes_on_with_the_next_batch(
    sources: tuple[Source, ...], tokenizer: Tokenizer, cut: int
) -> None:
    whole = _take(_reader(sources, tokenizer), cut + 40)
    with _reader(sources, tokenizer) as reader:
        for _ in range(cut):
            next(reader)
        saved = json.loads(json.dumps(reader.state_dict()))
    resumed = _reader(sources, tokenizer, prefetch=1)
    resumed.load_state_dict(saved)
    assert json.loads(json.dumps(resumed.state_dict())) == saved
    assert all(_same(a, b) for a, b in zip(whole[cut:], _take(resumed, 40), strict=True))


def test_a_used_up_set_leaves_the_mixture(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    batches = _take(_reader(sources, tokenizer), 600)
    talks = sum(name == "talks" for batch in batches for name in batch.sets)
    assert 0 < talks * WINDOW < 5000
    assert all("talks" not in batch.sets for batch in batches[400:])


def test_the_reader_ends_with_its_sets(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    with _reader((sources[2],), tokenizer) as reader:
        assert 0 < len(list(reader)) < 100
        assert next(reader, None) is None


@pytest.mark.parametrize("damage", [{"lanes": [{}]}, {"positions": []}, {"consumed": None}, {"batches": {}}])
def test_a_damaged_position_is_refused(
    sources: tuple[Source, ...], tokenizer: Tokenizer, damage: dict[str, Any]
) -> None:
    reader = _reader(sources, tokenizer)
    with pytest.raises(DataError, match="expected a saved position"):
        reader.load_state_dict(reader.state_dict() | damage)


def test_a_position_of_another_run_is_refused(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    saved = _reader(sources, tokenizer).state_dict()
    with pytest.raises(DataError, match="other shards, settings or another tokenizer"):
        _reader(sources, tokenizer, seed=4).load_state_dict(saved)
    with _reader(sources, tokenizer) as reader:
        next(reader)
        with pytest.raises(DataError, match="not started"):
            reader.load_state_dict(saved)


def test_close_stops_the_thread(sources: tuple[Source, ...], tokenizer: Tokenizer) -> None:
    reader = _reader(sources, tokenizer)
    next(reader)
    reader.close()
    assert not any(thread.name == "lane-reader" for thread in threading.enumerate())
    assert next(reader, None) is None


def test_empty_shards_are_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shard = _write(tmp_path / "empty.jsonl", [])
    with (
        LaneReader(sources_of([shard]), tokenizer, rows=1, window=4, seed=0) as reader,
        pytest.raises(DataError, match="expected at least one row"),
    ):
        next(reader)


@pytest.mark.skipif(not CORE.is_dir(), reason="needs the pre-training shards in ../shared/pretrain/core")
def test_the_shipped_mixture_fills_lanes_from_the_real_shards(tokenizer: Tokenizer) -> None:
    config = LaneConfig(shuffle_bytes=1 << 20, prefetch=1)
    with LaneReader(
        builtin_mixture("core").resolve(CORE), tokenizer, rows=16, window=256, seed=0, config=config
    ) as r:
        batch = next(r)
    assert batch.tokens.shape == (16, 257)
    assert batch.resets.all()
    assert sum(name.startswith("gutenberg") for name in batch.sets) in range(10, 13)
    assert "dialog_synthetic_persona" in batch.sets
