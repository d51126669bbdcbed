"""One write: the gradient is that of the taught tokens' loss, the step has its length, rows are apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
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
from tests.model.small import assert_identical, join, row_of
from torch import Tensor
from torch.nn import functional as F

from hope_model.attention import canary
from hope_model.attention.cache import WindowCache
from hope_model.attention.config import GRID, HopeAttentionConfig
from hope_model.attention.lesson import gather_lesson
from hope_model.attention.memory import CANARY_TOKENS, DAMPING
from hope_model.attention.model import HopeAttention
from hope_model.attention.write import Lesson, Write
from hope_model.state import State

SITE = "layers.2.down_proj"
TAUGHT = ("system", "user", "tool")


def last_layer(**changes: object) -> HopeAttentionConfig:
    """Only the last block is adapted, so no key depends on the memory; the whole vocabulary is weighed."""
    return config(level(**{"first_layer": 2, "steps": 1, **changes}), shortlist=VOCAB)


def without_canaries(config: HopeAttentionConfig) -> HopeAttention:
    weights = random_weights(config)
    weights[CANARY_TOKENS].fill_(-1)
    return HopeAttention(config, weights, dtype=torch.float32)


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


def loss(model: HopeAttention, it: Text, deltas: dict[str, Tensor], reach: int = PERIOD) -> Tensor:
    """Mean nats of the taught tokens, from the whole text."""
    logits = model.forward(torch.tensor([it.tokens]), deltas, window=WINDOW)[0]
    places = [place for place in range(max(1, len(it) - reach), len(it)) if it.origins[place] in TAUGHT]
    targets = torch.tensor(it.tokens)[places]
    return F.cross_entropy(logits[[place - 1 for place in places]], targets)


def damped(moment: Tensor) -> Tensor:
    return moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment))


@pytest.mark.parametrize("length", [PERIOD, 3 * PERIOD])
@pytest.mark.parametrize("projection", ["down_proj", "up_proj", "gate_proj"])
def test_a_step_follows_the_natural_gradient_of_the_taught_tokens(projection: str, length: int) -> None:
    model = without_canaries(last_layer(projections=(projection,), retention=0.1))
    it = text(length)
    state = model.initial_state(1)
    written = Write(model, model.config.memory.levels, state, lesson_of(model, it)).finish()
    name = f"layers.2.{projection}"
    delta = written.state[f"{name}.delta"][0]

    deltas = {name: torch.zeros_like(delta)[None].requires_grad_()}
    (gradient,) = torch.autograd.grad(loss(model, it, deltas), list(deltas.values()))
    geometry = model.memory.geometry[name]
    pushed = damped(geometry.inputs) @ delta @ damped(geometry.outputs)
    alike = F.cosine_similarity(pushed.flatten(), -gradient.flatten(), dim=0)
    assert float(alike) > 0.9999
    step = float((delta * pushed).sum()) ** 0.5
    assert step == pytest.approx(model.config.memory.levels[0].step_length, rel=1e-3)


@torch.no_grad()
def test_what_is_taught_becomes_likelier() -> None:
    model, it = without_canaries(last_layer(steps=6, last_step=0.2)), text(2 * PERIOD)
    written = Write(model, model.config.memory.levels, model.initial_state(1), lesson_of(model, it)).finish()
    before = loss(model, it, as_deltas(model, model.initial_state(1)))
    after = loss(model, it, as_deltas(model, written.state))
    assert float(after) < float(before) - 0.05


def test_taught_tokens_alone_are_targets() -> None:
    """Each from what stands where it is predicted."""
    model, it = build(config(), torch.float32), text(2 * PERIOD + 10)
    cache = read(model, it)
    places = [place for place in range(len(it) - PERIOD, len(it)) if it.origins[place] in TAUGHT]
    assert 0 < len(places) < PERIOD
    lesson = lesson_of(model, it)
    assert lesson.targets.tolist() == [[it.tokens[place] for place in places]]
    assert lesson.positions.tolist() == [[place - 1 for place in places]]
    assert torch.equal(lesson.hidden[0], cache.hidden[0, [place - 1 for place in places]])
    assert bool((lesson.weights == 1).all())


def test_a_lesson_is_a_copy() -> None:
    model, it = build(config(), torch.float32), text(2 * PERIOD)
    cache = read(model, it)
    recent = [(token, True) for token in it.tokens[-PERIOD - 1 :]]
    lesson = gather_lesson(model, cache, 0, recent, PERIOD)
    assert lesson is not None
    for tensor in (*cache.keys, *cache.values, cache.hidden):
        tensor.fill_(float("nan"))
    parts = [lesson.hidden, *(part for pair in lesson.keys for part in pair)]
    assert all(bool(part.isfinite().all()) for part in parts)


def test_nothing_taught_is_no_lesson() -> None:
    model, it = build(config(), torch.float32), text(PERIOD)
    cache = read(model, it)
    silent = [(token, False) for token in it.tokens]
    assert gather_lesson(model, cache, 0, silent, PERIOD) is None
    first = [(it.tokens[0], True), *silent[1:]]
    assert gather_lesson(model, cache, 0, first, PERIOD) is None  # nothing comes before it


def both(one: Lesson, other: Lesson) -> Lesson:
    """Two lessons of equal sizes side by side."""
    keys = [
        (torch.cat((mine[0], theirs[0])), torch.cat((mine[1], theirs[1])))
        for mine, theirs in zip(one.keys, other.keys, strict=True)
    ]
    names = ("hidden", "positions", "targets", "weights", "text", "bias")
    return Lesson(
        **{name: torch.cat((getattr(one, name), getattr(other, name))) for name in names}, keys=keys
    )


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


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_sessions_side_by_side_write_as_each_alone(rule: str) -> None:
    model = build(config(level(write_rule=rule, max_norm=10.0)), torch.float32)
    levels = model.config.memory.levels
    lessons = [lesson_of(model, taught(seed)) for seed in (0, 1)]
    states = [some_state(model, seed) for seed in (0, 1)]
    together = Write(model, levels, join(states), both(*lessons)).finish()
    assert together.applied["fast"].tolist() == [True, True]
    for row in (0, 1):
        alone = Write(model, levels, states[row], lessons[row]).finish()
        close(row_of(together.state, row), alone.state)


def test_plain_text_takes_its_own_steps_beside_words() -> None:
    own = level(steps=3, text_steps=1, text_step_length=0.02, text_retain=0.5, max_norm=10.0)
    model = build(config(own), torch.float32)
    levels = model.config.memory.levels
    words, prose = (lesson_of(model, taught(seed)) for seed in (0, 1))
    prose = replace(prose, text=torch.tensor([True]))
    states = [some_state(model, seed) for seed in (0, 1)]
    together = Write(model, levels, join(states), both(words, prose))
    alone = [Write(model, levels, states[row], it) for row, it in enumerate((words, prose))]
    assert [write.slices for write in (together, *alone)] == [6, 6, 2]
    written = together.finish()
    for row, write in enumerate(alone):
        close(row_of(written.state, row), write.finish().state)


def test_a_step_of_plain_text_has_its_own_length() -> None:
    model = without_canaries(last_layer(steps=3, text_steps=1, text_step_length=0.02))
    lesson = replace(lesson_of(model, taught(0)), text=torch.tensor([True]))
    written = Write(model, model.config.memory.levels, model.initial_state(1), lesson).finish()
    delta, geometry = written.state[f"{SITE}.delta"][0], model.memory.geometry[SITE]
    pushed = damped(geometry.inputs) @ delta @ damped(geometry.outputs)
    assert float((delta * pushed).sum()) ** 0.5 == pytest.approx(0.02, rel=1e-3)


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
    written = Write(model, model.config.memory.levels, model.initial_state(1), lesson_of(model, it)).finish()
    assert written.applied["fast"].tolist() == [True]
    assert not bool(written.state[f"{SITE}.delta"].any())
    surprised = replace(it, tokens=(*it.tokens[:-8], *((token + 9) % VOCAB for token in it.tokens[-8:])))
    written = Write(
        model, model.config.memory.levels, model.initial_state(1), lesson_of(model, surprised)
    ).finish()
    assert bool(written.state[f"{SITE}.delta"].any())


def test_a_row_that_is_not_finite_keeps_what_it_had() -> None:
    model = build(config(level(write_rule="adam")), torch.float32)
    levels = model.config.memory.levels
    lessons = [lesson_of(model, taught(seed)) for seed in (0, 1)]
    sick = replace(lessons[1], hidden=lessons[1].hidden.clone())
    sick.hidden[0, 3, 5] = float("nan")
    states = [some_state(model, seed) for seed in (0, 1)]
    written = Write(model, levels, join(states), both(lessons[0], sick)).finish()
    assert written.applied["fast"].tolist() == [True, False]
    assert_identical(row_of(written.state, 1), states[1])
    close(row_of(written.state, 0), Write(model, levels, states[0], lessons[0]).finish().state)


def test_the_state_that_is_given_is_not_changed() -> None:
    model = build(config(level(write_rule="adam")), torch.float32)
    state = some_state(model, 0)
    before = {name: tensor.clone() for name, tensor in state.items()}
    Write(model, model.config.memory.levels, state, lesson_of(model, taught(0))).finish()
    assert_identical(state, before)


def test_tokens_of_no_weight_teach_nothing() -> None:
    """What pads a lesson to the length of its neighbours."""
    model = without_canaries(last_layer())
    lesson = lesson_of(model, taught(0))
    padded = replace(
        lesson,
        **{name: getattr(lesson, name).repeat(1, 2, 1) for name in ("hidden", "bias")},
        positions=lesson.positions.repeat(1, 2),
        targets=torch.cat((lesson.targets, lesson.targets.flip(1)), dim=1),
        weights=torch.cat((lesson.weights, torch.zeros_like(lesson.weights)), dim=1),
    )
    levels, state = model.config.memory.levels, model.initial_state(1)
    close(
        Write(model, levels, state, padded).finish().state,
        Write(model, levels, state, lesson).finish().state,
    )


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
    """A gradient that is summed slice by slice is that of the whole lesson."""
    whole = replace(last_layer(steps=3), memory=replace(last_layer(steps=3).memory, rows=PERIOD))
    sliced = replace(whole, memory=replace(whole.memory, rows=rows))
    states = []
    for configured in (whole, sliced):
        model = without_canaries(configured)
        lesson = lesson_of(model, taught(0))
        write = Write(model, configured.memory.levels, model.initial_state(1), lesson)
        expected = 3 * -(-PERIOD // configured.memory.rows)
        for left in range(expected, 0, -1):
            assert write.slices == left
            write.step()
        assert write.slices == 0
        states.append(write.result().state)
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


def test_canaries_hold_a_write_back() -> None:
    """The more they weigh, the closer answers stay to theta's."""
    moved = []
    for weight in (1e-6, 100.0):
        configured = config(level(steps=4, retention=0.1, max_norm=10.0), canary=weight)
        model = build(configured, torch.float32)
        lesson = lesson_of(model, taught(0))
        written = Write(model, configured.memory.levels, model.initial_state(1), lesson).finish()
        with torch.no_grad():
            deltas = as_deltas(model, written.state)
            moved.append(sum(float(it.divergence(model, deltas)) for it in model.canaries))
    assert len(build(config(), torch.float32).canaries) == 2
    assert moved[1] < moved[0]
