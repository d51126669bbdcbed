"""Long text with something hidden in it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_model.errors import DataError
from hope_model.evaluate.haystack import Haystack, noise, sentences

HIDDEN = -1
"""Tokens of the haystack are positive."""


@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=30),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(),
)
def test_what_is_hidden_stands_whole_in_a_text_of_the_length(
    sizes: list[int], places: list[float], data: st.DataObject, seed: int
) -> None:
    """Each piece is near its place, the pieces keep their order, and the rest is a cut of the text."""
    ids = [[1 + (number + at) % 50 for at in range(size)] for number, size in enumerate(sizes)]
    pieces = [(place, [HIDDEN - number] * 3) for number, place in enumerate(sorted(places))]
    length = data.draw(st.integers(1, sum(sizes))) + 3 * len(pieces)
    text = Haystack("text", ids).hide(length, pieces, random.Random(seed))
    assert len(text) == length
    assert [token for token in text if token <= HIDDEN] == [token for _, piece in pieces for token in piece]
    room = length - 3 * len(pieces)
    for number, (place, piece) in enumerate(pieces):
        at = text.index(piece[0])
        assert list(text[at : at + 3]) == piece
        assert abs((at - 3 * number) - place * room) <= 64  # no sentence is longer
    rest = tuple(token for token in text if token > 0)
    around = [token for sentence in ids for token in sentence] * 2
    assert any(tuple(around[at : at + room]) == rest for at in range(sum(sizes)))


def test_the_seed_says_where_the_text_begins() -> None:
    haystack = Haystack("text", [[number] for number in range(100)])
    texts = {haystack.hide(10, [(0.5, [-1])], random.Random(seed)) for seed in range(9)}
    assert len(texts) > 1
    assert all(text[4] == -1 or text[5] == -1 for text in texts)


@pytest.mark.parametrize(
    ("length", "message"), [(14, "text: expected 13 tokens .* found 12"), (1, "found no room")]
)
def test_lengths_that_do_not_fit_are_refused(length: int, message: str) -> None:
    haystack = Haystack("text", [[1] * 6, [2] * 6])
    with pytest.raises(DataError, match=message):
        haystack.hide(length, [(0.0, [-1])], random.Random(0))


def test_sentences_end_where_people_end_them() -> None:
    text = 'One\nis here. "Two?"  And\tthree! 3.5 is no end'
    assert sentences(text) == ["One is here. ", '"Two?" ', "And three! ", "3.5 is no end "]
    assert sentences(" \n") == []


def test_noise_is_long_enough() -> None:
    assert len(noise(1000).split()) >= 1000
    assert set(sentences(noise(50))) == {
        *("The grass is green. ", "The sky is blue. ", "The sun is yellow. "),
        *("Here we go. ", "There and back again. "),
    }
