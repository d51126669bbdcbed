"""Sessions in this process: what is asked is judged as the model judges it, and leaves no trace."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.model.evaluate import talking

from hope_model.attention.checkpoint import load_attention_checkpoint
from hope_model.errors import ConfigError, EvaluationError
from hope_model.evaluate.reader import SessionReader
from hope_model.evaluate.sessions import hope as hope_sessions
from hope_model.evaluate.sessions.asking import Question, Reply
from hope_model.evaluate.sessions.attention import AttentionSubject
from hope_model.evaluate.sessions.hope import HopeSubject
from hope_model.evaluate.sessions.reading import opened, require_conditions
from hope_model.hope import Hope
from hope_model.tokenizer import Tokenizer

ANSWERS = ((5, 9, 30), (7,), (200, 11))
QUESTION = Question((21, 40, 3), ANSWERS, 6)


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", add_bos=True)


@pytest.mark.parametrize("learn", [True, False])
def test_answers_are_as_likely_as_the_model_has_them(
    model: Hope, tokenizer: Tokenizer, text: str, learn: bool
) -> None:
    """All in one call of the model, beside a session that reads in parts and judges in a branch."""
    told = tokenizer.encode(text)[:70]
    with HopeSubject(model, tokenizer).session(learn=learn) as session:
        session.read(told[:33])
        session.read(told[33:])
        (reply,) = session.ask([QUESTION])
    for answer, nats in zip(ANSWERS, reply.nats, strict=True):
        tokens = torch.tensor([[*told, *QUESTION.prompt, *answer]])
        flags = torch.zeros_like(tokens, dtype=torch.bool)
        flags[:, : len(told)] = learn
        logits, _ = model(tokens, model.initial_state(1), flags)
        judged = logits[0, len(told) + len(QUESTION.prompt) - 1 : -1].log_softmax(-1)
        assert nats == pytest.approx(
            sum(float(judged[at, token]) for at, token in enumerate(answer)), abs=1e-3
        )


def test_the_greedy_answer_is_the_likeliest_next_token_again_and_again(
    model: Hope, tokenizer: Tokenizer, text: str
) -> None:
    told = tokenizer.encode(text)[:40]
    tokens = [*told, *QUESTION.prompt]
    said: list[int] = []
    learn = torch.ones(1, len(tokens), dtype=torch.bool)
    learn[:, len(told) :] = False
    for _ in range(QUESTION.limit):
        flags = torch.cat([learn, torch.zeros(1, len(said), dtype=torch.bool)], dim=1)
        logits, _ = model(torch.tensor([[*tokens, *said]]), model.initial_state(1), flags)
        said.append(int(logits[0, -1].argmax()))
    with HopeSubject(model, tokenizer).session(learn=True) as session:
        session.read(told)
        (reply,) = session.ask([QUESTION])
    expected = tokenizer.decode(said).partition("\n")[0]
    assert reply.text == expected
    assert not {tokenizer.eos_id, tokenizer.end_id} & set(said)


def test_learning_is_what_separates_two_sessions(model: Hope, tokenizer: Tokenizer, text: str) -> None:
    replies = []
    for learn in (True, False):
        with HopeSubject(model, tokenizer).session(learn=learn) as session:
            session.read(tokenizer.encode(text)[:70])
            replies += session.ask([QUESTION])
    assert replies[0].nats != replies[1].nats


def test_few_branches_at_a_time_judge_alike(
    model: Hope, tokenizer: Tokenizer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HopeSubject(model, tokenizer).session(learn=True) as session:
        session.read(tokenizer.encode(text)[:70])
        (together,) = session.ask([QUESTION])
        monkeypatch.setattr(hope_sessions, "MAX_BRANCH_BYTES", 1)
        (alone,) = session.ask([QUESTION])
    assert alone.nats == pytest.approx(together.nats, abs=1e-4)


def test_a_pre_trained_model_answers_as_its_reader_does(attention: Path) -> None:
    checkpoint = load_attention_checkpoint(attention)
    told = list(range(3, 300))
    for origin in ("text", "user"):
        subject = AttentionSubject(checkpoint, origin=origin)
        assert subject.start() == [talking.START]
        with opened(subject, "on", 400) as session:
            session.read(told)
            replies = session.ask([QUESTION, Question((1, 2), limit=3), Question((1, 2), ANSWERS)])
        reader = SessionReader(checkpoint.model, learn=True)
        reader.read([(origin, [talking.START, *told])])
        assert replies[0].nats == pytest.approx(reader.judge(QUESTION.prompt, ANSWERS), abs=1e-3)
        assert replies[2].nats == pytest.approx(reader.judge((1, 2), ANSWERS), abs=1e-3)
        assert (replies[1].nats, replies[2].text) == ((), "")
        for reply, prompt, limit in ((replies[0], QUESTION.prompt, 6), (replies[1], (1, 2), 3)):
            (ids,) = reader.answer([prompt], limit, checkpoint.tokenizer.eos_ids)
            assert reply.text == checkpoint.tokenizer.decode(ids).partition("\n")[0]


def test_a_wide_session_sees_what_has_left_the_window(attention: Path) -> None:
    """Everything read, far beyond the window, against the last tokens of it alone."""
    subject = AttentionSubject(load_attention_checkpoint(attention))
    first = [[token] * 200 for token in (50, 60)]
    rest = list(range(3, 300)) * 2
    nats = {}
    for condition in ("context", "off"):
        for number, lead in enumerate(first):
            with opened(subject, condition, 1000) as session:
                session.read([*lead, *rest])
                nats[condition, number] = session.ask([QUESTION])[0].nats
    assert nats["context", 0] != pytest.approx(nats["context", 1], abs=1e-5)
    assert nats["off", 0] == pytest.approx(nats["off", 1], abs=1e-5)


def test_what_is_asked_leaves_no_trace(model: Hope, tokenizer: Tokenizer, text: str, attention: Path) -> None:
    told = tokenizer.encode(text)[:90]
    for subject in (HopeSubject(model, tokenizer), AttentionSubject(load_attention_checkpoint(attention))):
        replies = []
        for questions in ([], [QUESTION] * 3):
            with opened(subject, "on", 400) as session:
                session.read(told[:50])
                session.ask(questions)
                session.read(told[50:])
                replies += session.ask([QUESTION])
        assert replies[0] == replies[1]


def test_a_model_without_a_window_has_none_to_widen(model: Hope, tokenizer: Tokenizer) -> None:
    require_conditions(HopeSubject(model, tokenizer), "mine", ["on", "off"])
    with pytest.raises(ConfigError, match=r"expected on and off for mine: .* found rule 'delta'"):
        require_conditions(HopeSubject(model, tokenizer), "mine", ["on", "context"])


def test_a_likelihood_that_is_no_number_is_no_answer() -> None:
    assert Reply((-2.0, -1.0, -1.0), "").best() == 1
    assert Reply((-2.0, -1.0), "").above(Reply((-3.0, -1.5), "")).nats == (1.0, 0.5)
    with pytest.raises(EvaluationError, match="expected finite log-likelihoods"):
        Reply((math.nan, -1.0), "").best()
