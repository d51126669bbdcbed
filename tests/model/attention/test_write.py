"""One write: margins and their gradients are those of the text, the solution is one, bounds hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.model.attention.tiny import (
    PERIOD,
    PREFIX,
    VOCAB,
    WINDOW,
    Text,
    as_deltas,
    build,
    config,
    deltas_of,
    level,
    random_weights,
    text,
)
from tests.model.small import assert_identical, join
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention import canary
from hope_model.attention.alternatives import Alternatives
from hope_model.attention.cache import WindowCache
from hope_model.attention.compiled_tangent import tangents_of
from hope_model.attention.config import GRID, HopeAttentionConfig
from hope_model.attention.lesson import NOTHING, TEXT, WORDS, gather_lesson
from hope_model.attention.margins import solve_margins, solve_margins_by_kernel
from hope_model.attention.memory import CANARY_TOKENS, DAMPING
from hope_model.attention.model import HopeAttention
from hope_model.attention.tangent import Lesson, Pushes, Question, Tangent
from hope_model.attention.together import step_together
from hope_model.attention.write import DRAWN_BACK, GUARDED, Write, Written
from hope_model.state import State
from hope_model.streaks import Frozen

SITE = "layers.2.down_proj"
TAUGHT = ("system", "user", "tool")


def last_layer(**changes: object) -> HopeAttentionConfig:
    """Only the last block is adapted, so no key depends on the memory; the whole vocabulary is weighed."""
    return config(level(**{"first_layer": 2, "rounds": 1, **changes}), shortlist=VOCAB)


def without_canaries(config: HopeAttentionConfig) -> HopeAttention:
    weights = random_weights(config)
    weights[CANARY_TOKENS].fill_(-1)
    return HopeAttention(config, weights, dtype=torch.float32)


def write(model: HopeAttention, state: State, lesson: Lesson) -> Written:
    """Of all levels."""
    return Write(model, model.config.memory.levels, state, lesson).finish()


@torch.no_grad()
def read(model: HopeAttention, it: Text) -> WindowCache:
    cache = model.new_cache(1)
    for part in torch.tensor([it.tokens]).split(GRID, dim=1):
        model.read(cache, [0], part, None)
    return cache


def lesson_of(model: HopeAttention, it: Text, reach: int = PERIOD) -> Lesson:
    """What the end of a text teaches."""
    recent = [(token, origin in TAUGHT) for token, origin in zip(it.tokens, it.origins, strict=True)]
    lesson = gather_lesson(model, read(model, it), 0, recent[-reach - 1 :], reach)
    assert lesson is not None
    return lesson


def teaches(it: Text, place: int) -> bool:
    """Whether a token is taught: one of a run of taught words, but not the first."""
    return all(origin in TAUGHT for origin in it.origins[place - 1 : place + 1])


def loss(model: HopeAttention, it: Text, deltas: dict[str, Tensor], reach: int = PERIOD) -> Tensor:
    """Mean nats of the taught tokens, from the whole text."""
    logits = model.forward(torch.tensor([it.tokens]), deltas, window=WINDOW)[0]
    places = [place for place in range(max(1, len(it) - reach), len(it)) if teaches(it, place)]
    targets = torch.tensor(it.tokens)[places]
    return F.cross_entropy(logits[[place - 1 for place in places]], targets)


def damped(moment: Tensor) -> Tensor:
    return moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment))


def tangent_of(model: HopeAttention, *question: Any) -> Tangent:
    """Of one question alone."""
    (tangent,) = tangents_of(model, [Question(*question)])
    return tangent


def alternatives_of(model: HopeAttention, lesson: Lesson, size: int) -> Alternatives:
    x = model.adapted(lesson.hidden, lesson.positions, lesson.bias, lesson.keys, {})
    x = model.backbone.final(x)[0]
    return Alternatives.of(model, x, model.backbone.head(x).float(), lesson.targets[0], size)


@pytest.mark.parametrize("size", [1, 8, VOCAB])
@pytest.mark.parametrize("projection", ["down_proj", "up_proj", "gate_proj"])
def test_a_tangent_has_the_margins_of_the_text_and_their_gradients(projection: str, size: int) -> None:
    """Where the rest of the vocabulary was taken, a shortlist is exact to first order."""
    model, it = without_canaries(last_layer(projections=(projection,))), text(2 * PERIOD)
    lesson, sites = lesson_of(model, it), model.memory.sites
    name = f"layers.2.{projection}"
    blank = as_deltas(model, model.initial_state(1))
    tangent = tangent_of(model, lesson, alternatives_of(model, lesson, size), blank, sites)
    places = [place for place in range(len(it) - PERIOD, len(it)) if teaches(it, place)]
    deltas = {name: blank[name].clone().requires_grad_()}
    chances = model.forward(torch.tensor([it.tokens]), deltas, window=WINDOW)[0].log_softmax(-1)
    for number in (0, len(places) // 2, len(places) - 1):
        loss = chances[places[number] - 1, it.tokens[places[number]]]
        margin = loss - torch.log1p(-loss.exp())
        (gradient,) = torch.autograd.grad(margin, deltas[name], retain_graph=True)
        assert float(tangent.margins[number]) == pytest.approx(float(margin.detach()), abs=1e-4)
        found = torch.outer(tangent.inputs[name][number], tangent.slopes[name][number])
        torch.testing.assert_close(found, gradient[0], rtol=1e-3, atol=1e-5)


def test_writes_in_company_come_to_what_they_come_to_alone() -> None:
    """Lessons of other lengths and sights, and of another level, in one pass as far as they can be."""
    fast, slow = level(first_layer=2), level(name="other", first_layer=1, last_layer=1)
    model = HopeAttention(config(fast, slow), random_weights(config(fast, slow)))
    states = [some_state(model, seed) for seed in range(4)]
    lessons = [
        lesson_of(model, text(length, seed)) for seed, length in enumerate((PERIOD, 3 * PERIOD, 90, 70))
    ]
    levels = [(fast, slow), (fast, slow), (slow,), (fast, slow)]

    def begin(number: int) -> Write:
        return Write(model, levels[number], states[number], lessons[number])

    together = [begin(number) for number in range(4)]
    together[3].step()  # one is ahead of the others
    passes: list[int] = []
    while waiting := [each for each in together if each.slices]:
        passes.append(sum(each.question is not None for each in waiting))
        step_together(model, waiting)
    assert max(passes) >= 3
    for number, each in enumerate(together):
        assert_identical(each.result().state, begin(number).finish().state)


def test_margins_follow_the_tangent() -> None:
    """Of a small change, at a memory that is not empty."""
    model = without_canaries(last_layer())
    lesson, sites = lesson_of(model, taught(0)), model.memory.sites
    held = some_state(model, 1)
    alternatives = alternatives_of(model, lesson, VOCAB)
    tangent = tangent_of(model, lesson, alternatives, as_deltas(model, held), sites)
    change = 1e-3 * deltas_of(some_state(model, 2))[f"{SITE}.delta"]
    there = {**held, f"{SITE}.delta": held[f"{SITE}.delta"] + change}
    moved = tangent_of(model, lesson, alternatives, as_deltas(model, there), sites)
    expected = tangent.margins + tangent.along({SITE: change[0]})
    torch.testing.assert_close(moved.margins, expected, rtol=0, atol=2e-4)


def test_pushes_are_the_cheapest_changes() -> None:
    model = without_canaries(last_layer(retention=3.0))
    lesson, sites = lesson_of(model, taught(0)), model.memory.sites
    blank = as_deltas(model, model.initial_state(1))
    tangent = tangent_of(model, lesson, alternatives_of(model, lesson, VOCAB), blank, sites)
    geometry = model.memory.geometry[SITE]
    pushes = Pushes(tangent, sites, model.memory)
    rank, out = sites[0].shape
    metric = 3.0 * torch.kron(damped(geometry.inputs), damped(geometry.outputs))
    slopes = torch.einsum("nr,no->nro", tangent.inputs[SITE], tangent.slopes[SITE]).flatten(1)
    cheapest = torch.linalg.solve(metric, slopes.mT)
    torch.testing.assert_close(pushes.gram(), slopes @ cheapest, rtol=1e-3, atol=1e-4)
    pull = torch.randn(len(slopes), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        pushes.change(pull)[SITE], (cheapest @ pull).view(rank, out), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "solve", [solve_margins, pytest.param(solve_margins_by_kernel, marks=pytest.mark.compiler)]
)
@given(
    tokens=st.integers(1, 12),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 30.0, 1e3]),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
)
def test_a_token_pulls_as_much_as_it_is_still_unknown(
    solve: Callable[..., Tensor], tokens: int, seed: int, scale: float, spread: float
) -> None:
    make = torch.Generator().manual_seed(seed)
    factor = torch.randn(tokens, max(1, tokens - 2), generator=make)
    gram = scale * factor @ factor.T
    margins = spread * torch.randn(tokens, generator=make)
    weights = torch.rand(tokens, generator=make)
    pull = solve(gram, margins, weights)
    unknown = torch.sigmoid(-(margins.double() + gram.double() @ pull.double())).float()
    tolerance = 1e-4 * max(1.0, float(gram.diagonal().max()))
    torch.testing.assert_close(gram @ pull, gram @ (weights * unknown), rtol=0, atol=tolerance)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_round_that_may_go_far_solves_its_linear_lesson(rounds: int) -> None:
    """The gradient of cost and weighted loss is zero there, with margins linear around where it began."""
    far = {"round_length": 1e3, "max_norm": 1e3, "retention": 30.0}
    began, model = (
        without_canaries(last_layer(rounds=max(1, count), **far)) for count in (rounds - 1, rounds)
    )
    lesson, state = lesson_of(model, taught(0)), model.initial_state(1)
    here = write(began, state, lesson).state if rounds > 1 else state
    change = write(model, state, lesson).state[f"{SITE}.delta"][0]
    sites, alternatives = model.memory.sites, alternatives_of(model, lesson, VOCAB)
    losses = F.softplus(-tangent_of(model, lesson, alternatives, as_deltas(model, state), sites).margins)
    worth = (((losses - 4) / 4).clamp(0, 1).sum() / 8).clamp_max(1)
    assert float(worth) > 0.5
    weights = ((losses - 2) / 4).clamp(0, 1) * worth**3
    tangent = tangent_of(model, lesson, alternatives, as_deltas(model, here), sites)
    margins = tangent.margins + tangent.along({SITE: change - here[f"{SITE}.delta"][0]})
    pull = weights * torch.sigmoid(-margins)
    geometry = model.memory.geometry[SITE]
    cost = 30.0 * damped(geometry.inputs) @ change @ damped(geometry.outputs)
    gain = tangent.inputs[SITE].mT @ (pull[:, None] * tangent.slopes[SITE])
    torch.testing.assert_close(cost, gain, rtol=2e-2, atol=2e-2 * float(gain.abs().max()))


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_round_goes_no_farther_than_its_length(rounds: int) -> None:
    model = without_canaries(last_layer(rounds=rounds, round_length=0.01, max_norm=1e3, retention=1e-3))
    written = write(model, model.initial_state(1), lesson_of(model, taught(0)))
    norm = float(model.memory.squared_norm({SITE: written.state[f"{SITE}.delta"]}, [SITE])[0]) ** 0.5
    assert 0.009 < norm <= 0.01 * rounds * 1.0001
    assert norm > 0.015 or rounds == 1


@torch.no_grad()
def test_what_is_taught_becomes_likelier() -> None:
    model, it = without_canaries(last_layer(rounds=4)), text(2 * PERIOD)
    written = write(model, model.initial_state(1), lesson_of(model, it))
    before = loss(model, it, as_deltas(model, model.initial_state(1)))
    after = loss(model, it, as_deltas(model, written.state))
    assert float(after) < float(before) - 0.05


@pytest.mark.parametrize("length", [PERIOD, 3 * PERIOD])
def test_plain_text_takes_one_step_along_the_natural_gradient_of_all_its_tokens(length: int) -> None:
    model = without_canaries(last_layer(rounds=3, text_step_length=0.02))
    it = text(length)
    lesson = replace(lesson_of(model, it), text=True)
    delta = write(model, model.initial_state(1), lesson).state[f"{SITE}.delta"][0]
    deltas = {SITE: torch.zeros_like(delta)[None].requires_grad_()}
    (gradient,) = torch.autograd.grad(loss(model, it, deltas), list(deltas.values()))
    geometry = model.memory.geometry[SITE]
    pushed = damped(geometry.inputs) @ delta @ damped(geometry.outputs)
    assert float(F.cosine_similarity(pushed.flatten(), -gradient.flatten(), dim=0)) > 0.9999
    assert float(model.memory.squared_norm({SITE: delta[None]}, [SITE])[0]) ** 0.5 == pytest.approx(
        0.02, rel=1e-3
    )


def test_taught_tokens_alone_are_targets() -> None:
    """Each from what stands where it is predicted."""
    model, it = build(config(), torch.float32), text(2 * PERIOD + 10)
    cache = read(model, it)
    places = [place for place in range(len(it) - PERIOD, len(it)) if teaches(it, place)]
    assert 0 < len(places) < PERIOD
    lesson = lesson_of(model, it)
    assert lesson.targets.tolist() == [[it.tokens[place] for place in places]]
    assert lesson.positions.tolist() == [[place - 1 for place in places]]
    assert torch.equal(lesson.hidden[0], cache.hidden[0, [place - 1 for place in places]])
    assert torch.equal(lesson.outputs[0], cache.outputs[0, [place - 1 for place in places]])


@pytest.mark.parametrize("kind", [WORDS, TEXT])
def test_the_first_word_that_somebody_says_teaches_nothing(kind: int) -> None:
    """Nor what comes after a token that does not teach; plain text has no speakers."""
    model, it = build(config(), torch.float32), text(PERIOD)
    said = [range(5, 12), range(30, 31), range(40, 64)]
    recent = [
        (token, kind if any(place in run for run in said) else NOTHING)
        for place, token in enumerate(it.tokens)
    ]
    lesson = gather_lesson(model, read(model, it), 0, recent, PERIOD)
    assert lesson is not None
    expected = [place for run in said for place in run if kind == TEXT or place > run.start]
    assert (lesson.positions[0] + 1).tolist() == expected


def test_the_first_word_is_known_at_the_start_of_a_period() -> None:
    """By the token before the period, which is not in it."""
    model, it = build(config(), torch.float32), text(2 * PERIOD)
    cache = read(model, it)
    for before in (NOTHING, WORDS):
        recent = [(it.tokens[PERIOD - 1], before), *((token, WORDS) for token in it.tokens[PERIOD:])]
        lesson = gather_lesson(model, cache, 0, recent, PERIOD)
        assert lesson is not None
        assert int(lesson.positions[0, 0]) + 1 == PERIOD + (before == NOTHING)


def test_a_lesson_is_a_copy() -> None:
    model, it = build(config(), torch.float32), text(2 * PERIOD)
    cache = read(model, it)
    recent = [(token, True) for token in it.tokens[-PERIOD - 1 :]]
    lesson = gather_lesson(model, cache, 0, recent, PERIOD)
    assert lesson is not None
    for tensor in (*cache.keys, *cache.values, cache.hidden, cache.outputs):
        tensor.fill_(float("nan"))
    parts = [lesson.hidden, lesson.outputs, *(part for pair in lesson.keys for part in pair)]
    assert all(bool(part.isfinite().all()) for part in parts)


def test_nothing_taught_is_no_lesson() -> None:
    model, it = build(config(), torch.float32), text(PERIOD)
    cache = read(model, it)
    silent = [(token, False) for token in it.tokens]
    assert gather_lesson(model, cache, 0, silent, PERIOD) is None
    first = [(it.tokens[0], True), *silent[1:]]
    assert gather_lesson(model, cache, 0, first, PERIOD) is None  # nothing comes before it


def taught(seed: int) -> Text:
    return text(2 * PERIOD, seed).with_origins("user")


def some_state(model: HopeAttention, seed: int, size: float = 0.05) -> State:
    """Deltas that are not zero."""
    state = model.initial_state(1)
    make = torch.Generator().manual_seed(seed)
    for name, delta in deltas_of(state).items():
        state[name] = size * torch.randn(delta.shape, generator=make)
    return state


def close(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def greedy(model: HopeAttention, tokens: int) -> Text:
    """A user who says what the model would have said."""
    ids = [5]
    while len(ids) < tokens:
        ids.append(int(model.forward(torch.tensor([ids]))[0, -1].argmax()))
    return Text(tuple(ids), ("user",) * tokens)


def test_what_is_no_news_teaches_nothing() -> None:
    """It counts as a write all the same."""
    model = without_canaries(last_layer())
    it = greedy(model, PERIOD)
    written = write(model, model.initial_state(1), lesson_of(model, it))
    assert written.applied == {"fast": True}
    assert not bool(written.state[f"{SITE}.delta"].any())
    surprised = replace(it, tokens=(*it.tokens[:-8], *((token + 9) % VOCAB for token in it.tokens[-8:])))
    written = write(model, model.initial_state(1), lesson_of(model, surprised))
    assert bool(written.state[f"{SITE}.delta"].any())


def test_small_talk_takes_fewer_rounds() -> None:
    """Two tokens that nobody could foresee, where eight would be worth them all."""
    model = without_canaries(last_layer(rounds=3))
    it = greedy(model, PERIOD)
    for surprises, rounds in ((2, 1), (20, 3)):
        tokens = (*it.tokens[:-surprises], *((token + 9) % VOCAB for token in it.tokens[-surprises:]))
        lesson = lesson_of(model, replace(it, tokens=tokens))
        begun = Write(model, model.config.memory.levels, model.initial_state(1), lesson)
        while begun.survey.slices:
            begun.step()
        parts = len(begun.survey.parts)
        assert parts > 0
        assert begun.slices == rounds * (parts + 1) + 1


@pytest.mark.parametrize("text", [False, True])
def test_a_write_that_is_not_finite_is_refused(text: bool) -> None:
    model = build(config(), torch.float32)
    lesson = replace(lesson_of(model, taught(1)), text=text)
    lesson.hidden[0, 3, 5] = float("nan")
    state = some_state(model, 1)
    written = write(model, state, lesson)
    assert written.applied == {"fast": False}
    assert_identical(written.state, state)


def test_the_state_that_is_given_is_not_changed() -> None:
    model = build(config(), torch.float32)
    state = some_state(model, 0)
    before = {name: tensor.clone() for name, tensor in state.items()}
    write(model, state, lesson_of(model, taught(0)))
    assert_identical(state, before)


@pytest.mark.parametrize("text", [False, True])
def test_a_level_holds_no_more_than_its_norm_or_what_it_had(text: bool) -> None:
    limits = {"max_norm": 0.05, "text_max_norm": 0.02}
    model = without_canaries(last_layer(text_step_length=0.2, **limits))
    lesson = replace(lesson_of(model, taught(0)), text=text)

    def norm(state: State) -> float:
        return math.sqrt(float(model.memory.squared_norm({SITE: state[f"{SITE}.delta"]}, [SITE])[0]))

    limit = limits["text_max_norm" if text else "max_norm"]
    assert norm(write(model, model.initial_state(1), lesson).state) == pytest.approx(limit, rel=1e-3)
    full = some_state(model, 1, 0.5)
    assert norm(full) > 2 * limit
    written = write(model, full, lesson).state
    assert 2 * limit < norm(written) <= norm(full) * 1.0001
    assert not torch.equal(written[f"{SITE}.delta"], full[f"{SITE}.delta"])


def test_a_level_that_is_not_due_is_read_but_not_written() -> None:
    fast = level(first_layer=2)
    slower = level(name="slower", period=128, first_layer=1, last_layer=1)
    model = build(config(fast, slower, window=192), torch.float32)
    state, lesson = some_state(model, 0), lesson_of(model, taught(0))
    written = Write(model, [fast], state, lesson).finish()
    assert written.applied.keys() == {"fast"}
    other = "layers.1.down_proj.delta"
    assert torch.equal(written.state[other], state[other])
    assert not torch.equal(written.state[f"{SITE}.delta"], state[f"{SITE}.delta"])
    unread = Write(model, [fast], {**state, other: torch.zeros_like(state[other])}, lesson).finish()
    assert not torch.equal(written.state[f"{SITE}.delta"], unread.state[f"{SITE}.delta"])


@pytest.mark.parametrize("rows", [1, 7, 32, PERIOD])
def test_slices_are_counted_and_change_nothing_else(rows: int) -> None:
    """Margins that are taken slice by slice are those of the whole lesson."""
    whole = replace(last_layer(rounds=3), memory=replace(last_layer(rounds=3).memory, rows=PERIOD))
    sliced = replace(whole, memory=replace(whole.memory, rows=rows))
    states = []
    for configured in (whole, sliced):
        model = without_canaries(configured)
        it = Write(model, configured.memory.levels, model.initial_state(1), lesson_of(model, taught(0)))
        parts = -(-PERIOD // configured.memory.rows)
        assert it.slices == 2 * parts + 3 * (parts + 1) + 1
        while it.survey.slices:
            most = it.slices
            it.step()
            assert it.slices < most
        for left in range(it.slices, 0, -1):
            assert it.slices == left
            it.step()
        assert it.slices == 0
        states.append(it.result().state)
    close(*states)


@pytest.mark.parametrize("prefix", [0, PREFIX])
def test_a_lesson_past_the_rings_end(prefix: int) -> None:
    """The loss at the first step is the same as in the text: positions, slots and mask fit each other."""
    model, it = without_canaries(last_layer()), text(5 * PERIOD).with_origins("user")
    cache = model.new_cache(1)
    cache.rows[0].prefix = prefix
    with torch.no_grad():
        outputs = [
            model.read(cache, [0], part, None) for part in torch.tensor([it.tokens]).split(GRID, dim=1)
        ]
    recent = [(token, True) for token in it.tokens[-PERIOD - 1 :]]
    lesson = gather_lesson(model, cache, 0, recent, PERIOD)
    assert lesson is not None
    x = model.adapted(lesson.hidden, lesson.positions, lesson.bias, lesson.keys, {})
    expected = torch.cat(outputs, dim=1)[:, -PERIOD - 1 : -1]
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_canary_says_how_far_answers_are_from_thetas(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every token on its list, the divergence of the distributions at the judged positions."""
    monkeypatch.setattr(canary, "SHORTLIST", VOCAB)
    model = build(last_layer(), torch.float32)
    tokens = text(40).tokens
    it = canary.Canary.of(model, tokens, 9)
    blank = as_deltas(model, model.initial_state(2))
    assert it.divergence(model, blank).abs().max() < 1e-5
    states = [some_state(model, seed, 0.3) for seed in (0, 1)]
    found = it.divergence(model, as_deltas(model, join(states)))
    theta = model.forward(torch.tensor([tokens]))[0, it.positions[0]].log_softmax(-1)
    for row, state in enumerate(states):
        adapted = model.forward(torch.tensor([tokens]), as_deltas(model, state))[0, it.positions[0]]
        expected = F.kl_div(adapted.log_softmax(-1), theta, log_target=True, reduction="batchmean")
        assert float(expected) > 0.01
        assert float(found[row]) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("text", [False, True])
def test_a_write_after_which_answers_go_astray_is_refused(text: bool) -> None:
    state = {}
    for limit in (1e-9, 10.0):
        model = build(config(level(text_step_length=0.3), canary=limit), torch.float32)
        assert len(model.canaries) == 2
        lesson = replace(lesson_of(model, taught(0)), text=text)
        guarded = some_state(model, 0) | {"writes": torch.tensor([[GUARDED - 1]])}
        written = write(model, guarded, lesson)
        assert written.applied == {"fast": limit > 1}
        assert write(model, some_state(model, 0), lesson).applied == {"fast": True}
        state[limit] = written.state
    assert_identical(state[1e-9], guarded)
    assert not torch.equal(state[10.0][f"{SITE}.delta"], state[1e-9][f"{SITE}.delta"])


@torch.no_grad()
def test_the_panel_asks_all_canaries_at_once() -> None:
    """Also one that has fewer positions to judge than are asked: its last one counts again and again."""
    model = build(last_layer(), torch.float32)
    texts = [(text(length, length).tokens, start) for length, start in ((40, 9), (90, 20), (30, 27))]
    panel = canary.Canary.panel(model, texts)
    states = [some_state(model, seed, 0.3) for seed in (0, 1)]
    found = panel.divergence(model, as_deltas(model, join(states)))
    for row, state in enumerate(states):
        deltas = as_deltas(model, state)
        long = [
            canary.Canary.of(model, *it, canary.PANEL_POSITIONS).divergence(model, deltas) for it in texts[:2]
        ]
        single = [
            canary.Canary.of(model, texts[2][0], start, 1).divergence(model, deltas) for start in (27, 28, 29)
        ]
        short = (single[0] + single[1] + (canary.PANEL_POSITIONS - 2) * single[2]) / canary.PANEL_POSITIONS
        expected = float(torch.cat([*long, short]).mean())
        assert expected > 0.01
        assert float(found[row]) == pytest.approx(expected, rel=1e-3)


def test_no_canary_is_no_panel() -> None:
    assert without_canaries(last_layer()).panel == []


@torch.no_grad()
def divergence(model: HopeAttention, state: State) -> float:
    """How far the answers of all canaries have moved."""
    assert len(model.panel) == 2
    nats = [part.nats(model, as_deltas(model, state))[0] for part in model.panel]
    return float(torch.cat(nats).mean())


@pytest.mark.parametrize("text", [False, True])
def test_what_moves_answers_too_far_is_drawn_back(text: bool) -> None:
    """As a whole, the new and the old; plain text goes as far as its norm allows."""

    def written(limit: float) -> tuple[State, float]:
        model = build(config(level(text_step_length=0.3), max_divergence=limit), torch.float32)
        lesson = replace(lesson_of(model, taught(0)), text=text)
        state = write(model, some_state(model, 0), lesson).state
        return state, divergence(model, state)

    free, moved = written(10.0)
    held, left = written(moved / 2)
    if text:
        assert_identical(held, free)
        return
    for name, delta in deltas_of(free).items():
        torch.testing.assert_close(held[name], 0.5**DRAWN_BACK * delta)
    assert 0.25 * moved < left < 0.75 * moved
    assert_identical(written(moved * 1.01)[0], free)


def test_many_writes_leave_answers_near_thetas() -> None:
    """What each adds is small; without a bound on all of it answers stray, far within the norm."""
    far: dict[float, list[float]] = {}
    for limit in (0.05, 10.0):
        model = build(config(level(max_norm=10.0), max_divergence=limit), torch.float32)
        state, far[limit] = model.initial_state(1), []
        for seed in range(12):
            state = write(model, state, lesson_of(model, taught(seed))).state
            far[limit].append(divergence(model, state))
    assert max(far[0.05]) < 0.15
    assert min(far[0.05][2:]) > 0.005
    assert far[10.0][-1] > 0.3


def test_an_answer_that_is_not_finite_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(config(), torch.float32)
    monkeypatch.setattr(canary.Canary, "nats", lambda *_: [torch.full((1, 8), torch.nan)])
    state = some_state(model, 0)
    written = write(model, state, lesson_of(model, taught(0)))
    assert (written.applied, written.refusal) == ({"fast": False}, Frozen.CANARY)
    assert_identical(written.state, state)
