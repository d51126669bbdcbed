"""Readers: what they judge and answer is what the model says, and the conversation does not notice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from tests.model.convert.builders import VOCAB
from tests.model.evaluate import talking

from hope_model.attention.rows import SessionRows
from hope_model.evaluate import reader as reader_module
from hope_model.evaluate.conversation import LastToken, Transcript, flat
from hope_model.evaluate.reader import ContextReader, Reader, SessionReader, branch_bytes, widened

PROMPT = (5, 9, 200, 31, 7)
ANSWERS = ((3, 4, 5), (8,), (260, 9), tuple(range(70, 150)))
WINDOW = talking.CONFIG.memory.window


def _tokens(count: int, seed: int = 0) -> list[int]:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (count,), generator=make).tolist()


def _readers(parts: Sequence[tuple[str, Sequence[int]]]) -> dict[str, Reader]:
    readers: dict[str, Reader] = {
        "on": SessionReader(talking.model(), learn=True),
        "off": SessionReader(talking.model(), learn=False),
        "ceiling": ContextReader(talking.model(), 2000),
    }
    for reader in readers.values():
        reader.read(parts)
    return readers


def _nats(ids: Sequence[int], first: int) -> float:
    """Log-likelihood of ``ids[first:]`` after all before it, by one pass over everything."""
    chances = talking.model().forward(torch.tensor([list(ids)]))[0].log_softmax(-1)
    return sum(float(chances[place - 1, ids[place]]) for place in range(first, len(ids)))


@pytest.mark.parametrize("length", [0, 40, WINDOW, 700])
def test_unlimited_context_sees_every_token(length: int) -> None:
    read = _tokens(length)
    reader = ContextReader(talking.model(), length + 200)
    reader.read([("user", read[:17]), ("model", read[17:])])
    before = [*read, *PROMPT]
    expected = [_nats([*before, *answer], len(before)) for answer in ANSWERS]
    assert reader.judge(PROMPT, ANSWERS) == pytest.approx(expected, abs=2e-3)


def test_a_session_sees_its_window() -> None:
    reader, read = SessionReader(talking.model(), learn=False), _tokens(700)
    reader.read([("user", read)])
    rows, ids = SessionRows(talking.model(), 1, learn=False), [*read, *PROMPT]
    while ids:
        part, ids = ids[: rows.room(0)], ids[rows.room(0) :]
        logits = rows.read(0, part, ["user"] * len(part))
    chances = logits.log_softmax(-1)
    answers = [[token] for token in (3, 8, 260)]
    assert reader.judge(PROMPT, answers) == pytest.approx([float(chances[a[0]]) for a in answers], abs=2e-3)
    assert reader.judge(PROMPT, answers) != pytest.approx(
        [_nats([*read, *PROMPT, *answer], 705) for answer in answers], abs=2e-3
    )


@pytest.mark.parametrize("name", ["on", "off", "ceiling"])
def test_answers_are_judged_as_if_alone(name: str) -> None:
    reader = _readers([("user", _tokens(300))])[name]
    alone = [reader.judge(PROMPT, [answer])[0] for answer in ANSWERS]
    assert reader.judge(PROMPT, ANSWERS) == pytest.approx(alone, abs=2e-3)


@pytest.mark.parametrize("name", ["on", "off", "ceiling"])
def test_an_answer_is_the_likeliest_token_again_and_again(name: str) -> None:
    reader = _readers([("user", _tokens(300))])[name]
    prompts = [PROMPT, (1, 2), tuple(_tokens(90, seed=3))]
    for prompt, answer in zip(prompts, reader.answer(prompts, 6, ()), strict=True):
        assert len(answer) == 6
        for place, token in enumerate(answer):
            others = [(other,) for other in _tokens(20, seed=place) if other != token]
            (mine, *theirs) = reader.judge((*prompt, *answer[:place]), [(token,), *others])
            assert mine > max(theirs)


@pytest.mark.parametrize("name", ["on", "off", "ceiling"])
def test_an_answer_ends_where_the_model_ends_it(name: str) -> None:
    reader = _readers([("user", _tokens(300))])[name]
    prompts = [tuple(_tokens(9, seed=seed)) for seed in range(8)]
    whole = reader.answer(prompts, 12, ())
    changes = (token for answer in whole for token, then in pairwise(answer) if then != token)
    stop = next(changes, whole[0][0])
    expected = [answer[: answer.index(stop)] if stop in answer else answer for answer in whole]
    assert reader.answer(prompts, 12, {stop}) == expected
    assert reader.answer(prompts, 3, ()) == [answer[:3] for answer in whole]


@pytest.mark.parametrize("name", ["on", "off", "ceiling"])
def test_questions_leave_the_conversation_as_it_was(name: str) -> None:
    first, second = _tokens(300), _tokens(150, seed=1)
    asked = _readers([("user", first)])[name]
    asked.judge(PROMPT, ANSWERS)
    asked.answer([PROMPT], 5, ())
    asked.read([("user", second)])
    silent = _readers([("user", [*first, *second])])[name]
    assert asked.judge(PROMPT, ANSWERS) == pytest.approx(silent.judge(PROMPT, ANSWERS), abs=2e-3)


def test_few_branches_at_a_time_answer_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, prompts = _readers([("user", _tokens(300))])["on"], [PROMPT, (1, 2), (7,)]
    together, likely = reader.answer(prompts, 5, ()), reader.judge(PROMPT, ANSWERS)
    assert isinstance(reader, SessionReader)
    for rows in (0, 2):
        monkeypatch.setattr(reader_module, "MAX_BRANCH_BYTES", rows * branch_bytes(reader.branch(1)))
        assert reader.answer(prompts, 5, ()) == together
        assert reader.judge(PROMPT, ANSWERS) == pytest.approx(likely, abs=1e-4)


def test_a_session_learns_what_a_user_says() -> None:
    tokens = _tokens(300)
    by_user, by_model = _readers([("user", tokens)]), _readers([("model", tokens)])
    assert by_user["on"].judge(PROMPT, ANSWERS) != by_user["off"].judge(PROMPT, ANSWERS)
    assert by_model["on"].judge(PROMPT, ANSWERS) == by_model["off"].judge(PROMPT, ANSWERS)
    for readers, learned in ((by_user, True), (by_model, False)):
        assert isinstance(readers["on"], SessionReader)
        assert (readers["on"].memory() is not None) is learned


def test_a_write_counts_from_where_it_is_active() -> None:
    memory = talking.CONFIG.memory
    active = memory.levels[0].period + memory.delay
    for length, learned in ((active - 1, False), (active, True)):
        reader = _readers([("user", _tokens(length))])["on"]
        assert isinstance(reader, SessionReader)
        assert (reader.memory() is not None) is learned


@pytest.mark.parametrize("tokens", [1, WINDOW, 1000])
def test_a_widened_model_shares_its_weights(tokens: int) -> None:
    wide = widened(talking.model(), tokens)
    assert wide.backbone is talking.model().backbone
    assert wide.config.memory.window >= tokens
    assert talking.model().config.memory.window == WINDOW


def test_a_transcript_reads_on_from_where_it_ended() -> None:
    """The next turn ends the answer before it; a question is no turn."""
    transcript = Transcript(talking.chat())
    transcript.exchange("a", "b")
    transcript.chat.question("c", transcript.last)
    transcript.exchange("d", "e")
    text = "".join(
        talking.tokenizer().added_text(token) or talking.tokenizer().decode([token])
        for token in flat(transcript.parts)
    )
    opened = "<|im_start|>assistant\n"
    assert text == (f"<|im_start|>user\na<|im_end|>{opened}b<|im_end|><|im_start|>user\nd<|im_end|>{opened}e")
    assert [origin for origin, _ in transcript.parts if origin != "template"] == [
        "user",
        "model",
        "user",
        "model",
    ]
    assert transcript.tokens == len(flat(transcript.parts))
    assert transcript.last == LastToken(talking.tokenizer().encode("e")[-1], "model")
