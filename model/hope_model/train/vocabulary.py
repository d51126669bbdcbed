"""The tokenizer of a run: given, found in its folder, or trained on its data."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from hope_model.config import get_config
from hope_model.tokenizer import Tokenizer
from hope_model.train.mixture import Source
from hope_model.train.settings import TRANSFORMER_PREFIX
from hope_model.train.shards import read_rows

SAMPLE_CHARACTERS = 40_000_000


def tokenizer_for(model_name: str, sources: Sequence[Source], given: Path | None, run: Path) -> Tokenizer:
    """``given`` or the run's own ``tokenizer.json``; else one trained on a sample of ``sources``, and kept.

    Raises:
        TokenizerError: a file that is not a tokenizer of the model's vocabulary size.
    """
    size = get_config(model_name.removeprefix(TRANSFORMER_PREFIX)).vocab_size
    own = run / "tokenizer.json"
    if given is not None or own.exists():
        return Tokenizer.load(given or own, vocab_size=size)
    tokenizer = Tokenizer.train(_sample(sources), size)
    run.mkdir(parents=True, exist_ok=True)
    tokenizer.save(own)
    return tokenizer


def _sample(sources: Sequence[Source]) -> Iterator[str]:
    """Texts of every set, as much of each as its weight says."""
    for source in sources:
        left = int(SAMPLE_CHARACTERS * source.weight)
        for text in islice(_texts(source), 1_000_000):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                break


def _texts(source: Source) -> Iterator[str]:
    for shard in source.shards:
        for row in read_rows(shard):
            yield row.text
