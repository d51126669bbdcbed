"""A chat that stays sane: short with a tiny model, 200 turns with a real one (slow)."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from tests.model.evaluate import talking

from hope_model.convert.convert import ensure_model
from hope_model.errors import ConfigError
from hope_model.evaluate.conversation import LastToken, Message
from hope_model.evaluate.sane_chat import CANARY, Milestone, chat_along, script
from hope_model.evaluate.sanity import repetition
from hope_model.evaluate.subject import load_talking
from hope_server.evaluate import render_of
from hope_server.models import ask_in_template


def _chat(turns: int = 12, *, learn: bool = True, every: int = 4, seed: int = 1) -> list[Milestone]:
    messages = script(turns, seed=seed)
    (milestones,) = chat_along(
        talking.model(), talking.chat(), [messages], learn=learn, answer_tokens=8, every=every
    )
    return milestones


@pytest.fixture(scope="module")
def learning() -> list[Milestone]:
    return _chat()


def test_a_short_chat_stays_sane(learning: list[Milestone]) -> None:
    """The tiny model's level is bounded as the real one's: by its Fisher norm, by the pull to theta."""
    start, *later = learning
    for milestone in later:
        assert abs(milestone.canary - start.canary) < 1.0
        assert 0 < milestone.drift["fast"] < 1.0
    frozen = _chat(learn=False)
    assert all(one.repetition <= other.repetition + 0.4 for one, other in zip(later, frozen[1:], strict=True))


def test_milestones_come_along_the_way(learning: list[Milestone]) -> None:
    assert [milestone.turns for milestone in learning] == [0, 4, 8, 12]
    assert [milestone.turns for milestone in _chat(5)] == [0, 4, 5]
    tokens = [milestone.tokens for milestone in learning]
    assert tokens[0] == 0
    assert tokens == sorted(tokens)
    said = sum(len(talking.tokenizer().encode(message)) for message in script(12, seed=1))
    assert said < tokens[-1] < said + 12 * (8 + 40)


def test_a_session_reads_messages_and_its_own_answers() -> None:
    """By hand, in one pass over everything so far; a cut answer is ended by the next turn."""
    model, chat, messages = talking.model(), talking.chat(), ["Hi", "the cat", "x"]
    ids: list[int] = []
    last: LastToken | None = None
    expected, answers = [], list[list[int]]()
    for message in messages:
        ids += [token for _, part in chat.render([Message("user", message)], last) for token in part]
        answer: list[int] = []
        for _ in range(9):
            token = int(model.forward(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)
            last = LastToken(token, "model")
            if token in chat.stop_ids:
                break
            answer.append(token)
        answers.append(answer)
        expected.append((len(ids), repetition([answer]), float(answer in answers[:-1])))
    assert len(ids) < talking.CONFIG.memory.window
    (found,) = chat_along(model, chat, [messages], learn=False, answer_tokens=9, every=1)
    assert [(each.tokens, each.repetition, each.echoes) for each in found[1:]] == expected
    assert len({share for _, share, _ in expected}) > 1
    assert {echo for _, _, echo in expected} == {0.0, 1.0}


def test_sessions_side_by_side_are_each_as_alone(learning: list[Milestone]) -> None:
    scripts = [script(12, seed=seed) for seed in (2, 1, 3)]
    found = chat_along(talking.model(), talking.chat(), scripts, answer_tokens=8, every=4)
    assert [milestones[1].tokens for milestones in found] != [learning[1].tokens] * 3
    for milestones, alone in zip(found, (_chat(seed=2), learning, _chat(seed=3)), strict=True):
        assert [(each.turns, each.tokens, each.repetition, each.echoes) for each in milestones] == [
            (each.turns, each.tokens, each.repetition, each.echoes) for each in alone
        ]
        assert [each.canary for each in milestones] == pytest.approx(
            [each.canary for each in alone], abs=1e-3
        )


def test_scripts_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scripts: expected as many turns in each, found \[2, 3\]"):
        chat_along(talking.model(), talking.chat(), [script(3), script(2)])


def test_the_first_milestone_is_the_model_itself(learning: list[Milestone]) -> None:
    ids = torch.tensor([talking.tokenizer().encode(CANARY)])
    chances = talking.model().forward(ids[:, :-1])[0].log_softmax(-1)
    nats = -float(chances.gather(-1, ids[0, 1:, None]).mean())
    assert learning[0].canary == pytest.approx(nats, rel=1e-4)
    assert learning[0].drift == {"fast": 0.0}


def test_without_learning_nothing_moves() -> None:
    start, *later = _chat(learn=False)
    assert all(milestone.canary == start.canary for milestone in later)
    assert all(milestone.drift == {"fast": 0.0} for milestone in later)


def test_learning_moves_the_model(learning: list[Milestone]) -> None:
    assert all(milestone.canary != learning[0].canary for milestone in learning[1:])


def test_the_user_says_many_things() -> None:
    assert len(set(script(200))) == 200
    assert script(300)[:200] == script(200)
    assert script(300)[200:] == script(100)
    assert script(200, seed=1) != script(200)


@pytest.mark.parametrize(("answer_tokens", "every"), [(0, 4), (8, 0)])
def test_other_lengths_are_refused(answer_tokens: int, every: int) -> None:
    with pytest.raises(ConfigError, match="answer_tokens, every: expected at least 1"):
        chat_along(talking.model(), talking.chat(), [], answer_tokens=answer_tokens, every=every)


@pytest.mark.slow
def test_200_turns_leave_a_real_model_sane() -> None:
    """Eight chats; what they do by luck is compared in the mean.

    Left to its greedy answers the model falls into echoes without learning too, and one that repeats itself
    may stay for tens of turns: a rounding makes 0.49 of 0.73. Eight learning and as many others had 0.57 and
    0.55 of echoes, 0.04 and 0.08 of repetition; the text rose by 0.27 at most in the mean, 0.36 at worst.
    """
    checkpoint, chat = load_talking(ensure_model("smollm2-135m", chat=ask_in_template), render_of)
    scripts = [script(200, seed=seed) for seed in range(8)]
    learned = chat_along(checkpoint.model, chat, scripts)
    frozen = chat_along(checkpoint.model, chat, scripts, learn=False)
    for start, *later in learned:
        assert [milestone.turns for milestone in later] == list(range(20, 201, 20))
        for level in start.drift:
            drifts = [milestone.drift[level] for milestone in later]
            assert min(drifts) > 0
            assert max(drifts) < 0.08
            assert drifts[-1] < 1.25 * drifts[2]  # a level that is full stays where it is
        rises = [milestone.canary - start.canary for milestone in later]
        assert max(rises) < 0.7
        assert fmean(rises) < 0.4
    for figure in ("repetition", "echoes"):
        with_memory, without = (
            fmean(getattr(each, figure) for _, *later in chats for each in later)
            for chats in (learned, frozen)
        )
        assert with_memory < without + 0.1, figure
