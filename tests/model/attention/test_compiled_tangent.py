"""Margins and slopes by the compiled kernel: those of the layers in fp32, whatever shares the pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.model.attention.test_compiled import CONFIGS, both, deltas_for
from tests.model.attention.tiny import VOCAB, backbone_config, build, config, random_weights, tiny_model
from tests.model.instructions import WITHOUT_AMX, with_other_instructions
from torch import Tensor
from torch.nn import functional as F

from hope_kernels import dispatch
from hope_kernels.cpu.build import BuildError
from hope_kernels.cpu.survey import rest, survey
from hope_kernels.cpu.tangent import Passes
from hope_kernels.cpu.weigh import weigh
from hope_model.attention import compiled_tangent
from hope_model.attention.alternatives import Alternatives, alternatives_of, look_at
from hope_model.attention.checkpoint import load_attention_checkpoint
from hope_model.attention.compiled_tangent import OPERATION, tangents_of
from hope_model.attention.config import HopeAttentionConfig
from hope_model.attention.layered_tangent import layered_tangents
from hope_model.attention.memory import Site
from hope_model.attention.model import HopeAttention
from hope_model.attention.quantize import KINDS, bits_of
from hope_model.attention.tangent import Lesson, Question, Tangent
from hope_model.convert.convert import ensure_model

pytestmark = pytest.mark.compiler
SHORTLIST = 8
QUANTIZABLE = replace(config(), backbone=backbone_config(head_width=16, mlp_width=96))


@torch.no_grad()
def question(model: HopeAttention, tokens: int, span: int, seed: int = 0, **changes: Any) -> Question:
    """Random; each of ``tokens`` sees other slots, the first one only one of them."""
    make = torch.Generator().manual_seed(100 * tokens + seed)
    sizes = model.config.backbone
    held = (1, sizes.kv_heads, span, sizes.head_width)
    targets = torch.randint(VOCAB, (tokens,), generator=make)
    hidden = model.backbone.embed(torch.randint(VOCAB, (1, tokens), generator=make))
    seen = torch.rand(1, tokens, span, generator=make) < 0.7
    seen[:, 0] = False
    seen[:, :, seed % span] = True
    x = model.backbone.final(hidden[0])
    keys, values = (
        [
            torch.randn(held, generator=make).to(model.backbone.dtype)
            for _ in range(model.config.first_adapted, sizes.layers)
        ]
        for _ in range(2)
    )
    lesson = Lesson(
        hidden=hidden,
        outputs=hidden,
        positions=torch.randint(90, (1, tokens), generator=make),
        targets=targets[None],
        bias=torch.zeros(1, tokens, span).masked_fill_(~seen, -torch.inf),
        keys=list(zip(keys, values, strict=True)),
        text=False,
    )
    alternatives = Alternatives.of(model, x, model.backbone.head(x).float(), targets, SHORTLIST)
    deltas = {name: delta[seed : seed + 1] for name, delta in deltas_for(model, 4).items()}
    return replace(Question(lesson, alternatives, deltas, model.memory.sites), **changes)


def in_fp32(asked: Question) -> Question:
    lesson = asked.lesson
    return replace(
        asked,
        lesson=replace(lesson, keys=[(k.float(), v.float()) for k, v in lesson.keys]),
        alternatives=replace(asked.alternatives, rows=asked.alternatives.rows.float()),
        deltas={name: delta.float() for name, delta in asked.deltas.items()},
    )


def parts(tangent: Tangent) -> dict[str, Tensor]:
    named = {f"inputs of {name}": value for name, value in tangent.inputs.items()}
    named |= {f"slopes of {name}": value for name, value in tangent.slopes.items()}
    return {"margins": tangent.margins, **named}


def near(found: Tangent, expected: Tangent, most: float) -> None:
    mine, theirs = parts(found), parts(expected)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (mine[name].shape, mine[name].dtype) == (value.shape, torch.float32), name
        assert float((mine[name] - value).norm() / value.norm()) < most, name


def same(found: Tangent, expected: Tangent) -> None:
    mine, theirs = parts(found), parts(expected)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_answers_as_layers_in_fp32_do(kind: str) -> None:
    own, plain = both(CONFIGS[kind])
    assert own.passes is not None
    for tokens, span in ((1, 64), (21, 50), (70, 140)):
        asked = question(own, tokens, span)
        (found,), (expected,) = tangents_of(own, [asked]), layered_tangents(plain, [in_fp32(asked)])
        near(found, expected, 0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_layers_of_the_same_weights_do(kind: str) -> None:
    model = HopeAttention(QUANTIZABLE, random_weights(QUANTIZABLE), quantize=bits_of(kind))
    assert model.passes is not None
    asked = question(model, 40, 70)
    near(tangents_of(model, [asked])[0], layered_tangents(model, [asked])[0], 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_trial_of_a_real_model_finds_rounding(kind: str) -> None:
    """A question from further out has slopes that rounding decides: of random keys it was 0.08 to 0.5."""
    model = load_attention_checkpoint(ensure_model("smollm2-135m"), quantize=bits_of(kind)).model
    assert model.passes is not None
    assert 0 < compiled_tangent._error(model, model.passes) < compiled_tangent.MAX_ERROR / 3


@pytest.mark.parametrize("kind", ["tiny", "memory everywhere"])
def test_sites_that_are_not_asked_about_change_nothing(kind: str) -> None:
    """Down to the lowest that is: what is below has no part in it."""
    model = build_of(CONFIGS[kind])
    asked = question(model, 9, 64)
    (whole,) = tangents_of(model, [asked])
    for site in model.memory.sites:
        (one,) = tangents_of(model, [replace(asked, sites=(site,))])
        assert (list(one.inputs), list(one.slopes)) == ([site.name], [site.name])
        assert torch.equal(one.slopes[site.name], whole.slopes[site.name]), site.name
        assert torch.equal(one.inputs[site.name], whole.inputs[site.name]), site.name


def build_of(config: HopeAttentionConfig) -> HopeAttention:
    return HopeAttention(config, random_weights(config))


def several(model: HopeAttention, sites: Sequence[Site]) -> list[Question]:
    """Of other lengths, sights and memories."""
    sizes = ((5, 64), (40, 130), (1, 31), (33, 192))
    return [
        question(model, tokens, span, seed, sites=tuple(sites)) for seed, (tokens, span) in enumerate(sizes)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_has_the_bits_that_it_has_alone(kind: str) -> None:
    """In any company, in any order, with any number of threads, and after passes of any size."""
    model = HopeAttention(QUANTIZABLE, random_weights(QUANTIZABLE), quantize=bits_of(kind))
    asked = several(model, model.memory.sites)
    torch.set_num_threads(1)
    alone = [tangents_of(model, [each])[0] for each in asked]
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for order in ([0, 1, 2, 3], [3, 1], [2, 0, 1], [1], [0, 2]):
            found = tangents_of(model, [asked[number] for number in order])
            for number, each in zip(order, found, strict=True):
                same(each, alone[number])


def test_a_token_has_the_bits_that_it_has_alone() -> None:
    """A lesson may be cut anywhere."""
    model = tiny_model()
    asked = question(model, 40, 130)
    (whole,) = tangents_of(model, [asked])
    for part in (slice(0, 7), slice(7, 8), slice(8, 40)):
        lesson, weighed = asked.lesson.only(part), asked.alternatives
        own = replace(
            weighed,
            **{name: getattr(weighed, name)[part] for name in ("place", "reference", "others", "direction")},
        )
        (cut,) = tangents_of(model, [replace(asked, lesson=lesson, alternatives=own)])
        for name, value in parts(cut).items():
            assert torch.equal(value, parts(whole)[name][part]), name


@pytest.mark.parametrize("what", ["hidden", "delta", "key", "value"])
def test_a_question_that_is_not_finite_is_so_alone(what: str) -> None:
    model = tiny_model()
    asked = several(model, model.memory.sites)[:3]
    expected = tangents_of(model, asked)
    lesson = asked[1].lesson
    broken = {
        "hidden": lambda: lesson.hidden[0, 3, 2:3],
        "delta": lambda: asked[1].deltas["layers.1.down_proj"],
        "key": lambda: lesson.keys[0][0],
        "value": lambda: lesson.keys[0][1],
    }[what]()
    broken.fill_(torch.nan)
    found = tangents_of(model, asked)
    for number in (0, 2):
        same(found[number], expected[number])
    assert bool(found[1].margins[3].isnan())


@torch.no_grad()
@pytest.mark.parametrize("kind", CONFIGS)
def test_outputs_are_those_of_layers_in_fp32(kind: str) -> None:
    """Rows with memories of their own, and with none at all."""
    own, plain = both(CONFIGS[kind])
    asked = [question(own, 20, 70, seed) for seed in range(3)]
    lessons = [each.lesson for each in asked]
    hidden, positions, bias = (
        torch.cat([getattr(each, name) for each in lessons]) for name in ("hidden", "positions", "bias")
    )
    layers = [
        (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
        for layer in zip(*(each.keys for each in lessons), strict=True)
    ]
    for deltas in ({name: delta[:3] for name, delta in deltas_for(own, 4).items()}, {}):
        wide = {name: delta.float() for name, delta in deltas.items()}
        found = own.adapted(hidden, positions, bias, layers, deltas)
        single_layers = [(k.float(), v.float()) for k, v in layers]
        expected = plain.adapted(hidden, positions, bias, single_layers, wide)
        assert (found.shape, found.dtype) == (expected.shape, torch.float32)
        assert float((found - expected).norm() / expected.norm()) < 0.02
        for row, each in enumerate(lessons):
            alone = {name: delta[row : row + 1] for name, delta in deltas.items()}
            single = own.adapted(each.hidden, each.positions, each.bias, each.keys, alone)
            assert torch.equal(single[0], found[row])


@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (1, 8), (23, 8), (70, VOCAB)])
def test_slopes_of_margins_are_their_gradients(tokens: int, size: int) -> None:
    """Through the last norm, as autograd has them in fp32; in any company and with any number of threads."""
    model, plain = tiny_model(), tiny_model(torch.float32)
    make = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, model.config.backbone.width, generator=make, requires_grad=True)
    targets = torch.randint(VOCAB, (tokens,), generator=make)
    before = model.backbone.final(x.detach() + 0.1 * torch.randn(x.shape, generator=make))
    own = Alternatives.of(model, before, model.backbone.head(before).float(), targets, size)
    wide = replace(own, rows=own.rows.float())
    margins = wide.margins(plain.backbone.final(x))
    (expected,) = torch.autograd.grad(margins.sum(), x)
    gain, epsilon = model.backbone.norm, model.config.backbone.norm_epsilon
    torch.set_num_threads(1)
    found, slopes = weigh(x.detach(), [own], gain, epsilon)
    torch.testing.assert_close(found, margins.detach(), rtol=0.01, atol=0.03)
    assert float((slopes - expected).norm() / expected.norm()) < 0.02
    other = question(model, 19, 64).alternatives
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        both = weigh(torch.cat((torch.ones(19, x.shape[1]), x.detach())), [other, own], gain, epsilon)
        assert torch.equal(both[0][19:], found)
        assert torch.equal(both[1][19:], slopes)


def test_no_target_leads_out_of_its_list() -> None:
    model = tiny_model()
    asked = question(model, 5, 64)
    asked.alternatives.place[2] = len(asked.alternatives.rows)
    with pytest.raises(IndexError, match="expected targets among"):
        tangents_of(model, [asked])


@with_other_instructions(WITHOUT_AMX)
def test_other_instructions_keep_the_rules(
    compiled_with: Callable[..., None], flags: tuple[str, ...]
) -> None:
    compiled_with(*flags)
    own, plain = both(CONFIGS["norms and biases"])
    assert own.passes is not None
    asked = several(own, own.memory.sites)
    for each, found in zip(asked, tangents_of(own, asked), strict=True):
        near(found, layered_tangents(plain, [in_fp32(each)])[0], 0.03)
        same(found, tangents_of(own, [each])[0])


@pytest.mark.parametrize("how", ["other numbers", "not a number", "no library"])
@pytest.mark.usefixtures("fresh_dispatch")
def test_without_it_layers_answer_loudly_and_once(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tangent = Passes.tangent

    def wrong(self: Passes, *arguments: Any) -> Any:
        inputs, slopes = tangent(self, *arguments)
        off = torch.nan if how == "not a number" else 1.2
        return inputs, {site: slope * off for site, slope in slopes.items()}

    def none(*_arguments: Any) -> None:
        raise BuildError("no C compiler: expected cc or gcc or clang on PATH")

    if how == "no library":
        monkeypatch.setattr(compiled_tangent, "Passes", none)
    else:
        monkeypatch.setattr(Passes, "tangent", wrong)
    models = [build(config()) for _ in range(2)]
    assert all(model.reader is not None and model.passes is None for model in models)
    assert dispatch.fallbacks() == (OPERATION,)
    assert sum(record.levelno == logging.ERROR for record in caplog.records) == 1
    monkeypatch.undo()
    asked = question(models[0], 9, 64)
    same(tangents_of(models[0], [asked])[0], layered_tangents(models[0], [asked])[0])


def test_only_what_is_read_by_the_kernel_learns_by_one() -> None:
    assert tiny_model().passes is not None
    assert tiny_model(torch.float32).passes is None
    assert tiny_model(compiled=False).passes is None
    assert OPERATION in dispatch.operations()


@pytest.mark.parametrize("position", [-1, 10**6])
def test_no_position_leads_out_of_the_tables(position: int) -> None:
    model = tiny_model()
    asked = question(model, 5, 64)
    asked.lesson.positions[0, 2] = position
    with pytest.raises(IndexError, match="expected positions from 0 to"):
        tangents_of(model, [asked])


def test_a_pass_for_which_there_is_no_room_leaves_the_next_ones_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(config())
    few, many = question(model, 3, 64), question(model, 300, 300)
    (expected,) = tangents_of(model, [few])

    def no_memory(*_size: Any, **_options: Any) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", no_memory)
        with pytest.raises(MemoryError):
            tangents_of(model, [many])
    same(tangents_of(model, [few])[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, VOCAB])
def test_what_is_weighed_is_what_torch_makes_of_the_same_logits(size: int) -> None:
    chosen = replace(CONFIGS["wide head"], memory=replace(CONFIGS["wide head"].memory, shortlist=size))
    model = build_of(chosen)
    make = torch.Generator().manual_seed(size)
    x = model.backbone.final(torch.randn(6, model.config.backbone.width, generator=make))
    targets, places = torch.randint(VOCAB, (6,), generator=make), torch.tensor([0, 2, 3, 5])
    logits = model.backbone.plain_logits(x)
    losses, news = look_at(model, x, targets)
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    (found,) = alternatives_of(model, [news.only(places)])
    wanted = Alternatives.of(model, x[places], logits[places], targets[places], size)
    for name in ("rows", "place", "reference"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    torch.testing.assert_close(found.others, wanted.others, rtol=0, atol=0.01)
    torch.testing.assert_close(found.direction, wanted.direction, rtol=0, atol=0.02)
    assert bool(wanted.direction.any()) == (size < VOCAB)


@torch.no_grad()
@pytest.mark.parametrize(("vocab", "width"), [(61, 32), (1003, 100), (2048, 576)])
def test_the_rest_is_a_mean_by_chances(vocab: int, width: int) -> None:
    """To the same bits in any company and with any number of threads."""
    make = torch.Generator().manual_seed(vocab)
    logits, listed = 2 * torch.randn(70, vocab, generator=make), torch.tensor([3, 9, vocab - 1])
    embedding = torch.randn(vocab, width, generator=make).bfloat16()
    places = torch.cat((torch.arange(3), torch.arange(4, 70)))
    chances = logits.softmax(-1)[places].index_fill(-1, listed, 0.0)
    expected = chances @ embedding.float() / chances.sum(-1, keepdim=True)
    totals = logits.logsumexp(-1)
    torch.set_num_threads(1)
    shares, means = rest(logits, [places], totals, [listed], embedding)
    torch.testing.assert_close(shares, chances.sum(-1), rtol=1e-3, atol=1e-4)
    assert float((means - expected).norm() / expected.norm()) < 0.01
    for threads, part in ((1, slice(5, 9)), (2, slice(69)), (3, slice(40, 69)), (2, slice(68, 69))):
        torch.set_num_threads(threads)
        few = rest(logits, [places[part]], totals, [listed], embedding)
        assert torch.equal(few[0], shares[part])
        assert torch.equal(few[1], means[part])
        own = survey(logits[part], listed[:1].expand(len(logits[part])), 7)
        assert torch.equal(own.totals, survey(logits, listed[:1].expand(70), 7).totals[part])


def test_each_group_leaves_out_what_it_lists() -> None:
    """More rows than share a piece of embeddings; a group has the bits that it has alone."""
    make = torch.Generator().manual_seed(0)
    logits, embedding = torch.randn(150, 83, generator=make), torch.randn(83, 40, generator=make).bfloat16()
    rows = [torch.arange(40), torch.tensor([77]), torch.arange(50, 150)]
    listed = [torch.arange(0, 83, 3), torch.tensor([82]), torch.arange(60)]
    totals = logits.logsumexp(-1)
    shares, means = rest(logits, rows, totals, listed, embedding)
    counts = [len(own) for own in rows]
    groups = zip(rows, listed, shares.split(counts), means.split(counts), strict=True)
    for own, ids, share, mean in groups:
        alone = rest(logits, [own], totals, [ids], embedding)
        assert torch.equal(alone[0], share)
        assert torch.equal(alone[1], mean)
        expected = logits.softmax(-1)[own].index_fill(-1, ids, 0.0).sum(-1)
        torch.testing.assert_close(share, expected, rtol=1e-3, atol=1e-4)


def test_the_greatest_logits_are_found_wherever_they_stand() -> None:
    make = torch.Generator().manual_seed(0)
    for vocab, size in ((1, 1), (16, 16), (37, 5), (1000, 32)):
        logits = torch.randn(9, vocab, generator=make)
        found = survey(logits, torch.zeros(9, dtype=torch.int64), size)
        assert torch.equal(found.best.sort().values, logits.topk(size).indices.sort().values), vocab
        torch.testing.assert_close(found.totals, logits.logsumexp(-1))


def test_logits_that_are_not_finite_are_so_alone() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 2, 3, 4])
    expected = survey(logits, targets, 5)
    logits[1, 30:] = torch.nan
    found = survey(logits, targets, 5)
    assert found.losses.isnan().tolist() == [False, True, False, False]
    assert torch.equal(found.losses[[0, 2, 3]], expected.losses[[0, 2, 3]])
    assert bool(((found.best >= 0) & (found.best < 50)).all())


@pytest.mark.parametrize("target", [-1, 50])
def test_no_target_leads_out_of_the_logits(target: int) -> None:
    with pytest.raises(IndexError, match="expected targets"):
        survey(torch.zeros(2, 50), torch.tensor([0, target]), 5)
