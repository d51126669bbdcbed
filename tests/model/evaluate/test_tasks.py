"""Task files: prompts as lm-eval writes them, figures by hand, likelihoods of a model and of a server."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import torch
from tests.model.attention.tiny import tiny_model
from tests.model.convert.builders import EOS
from tests.model.evaluate import talking
from tests.model.small import build, small_config

from hope_model.attention.rows import SessionRows
from hope_model.checkpoint import load_checkpoint, resolve
from hope_model.errors import ConfigError, DataError, EvaluationError
from hope_model.evaluate.tasks import cli
from hope_model.evaluate.tasks.cli import add_parser, table
from hope_model.evaluate.tasks.figures import choice_figures, last_word_figures, text_figures
from hope_model.evaluate.tasks.files import detokenised, read_articles, read_items
from hope_model.evaluate.tasks.formats import TASKS, Item, Pair
from hope_model.evaluate.tasks.remote import RemoteScorer
from hope_model.evaluate.tasks.scorer import (
    AttentionScorer,
    HopeScorer,
    Judged,
    Likelihood,
    judged_pair,
    windows,
)
from hope_model.pretrained_tokenizer import PretrainedTokenizer

SAME: dict[str, tuple[list[dict[str, Any]], Item]] = {
    "piqa": (
        [
            {"goal": "How?", "sol1": "So.", "sol2": "Not so.", "label": 1},
            {"context": "How?", "choices": ["So.", "Not so."], "gold": 1},
        ],
        Item(
            (Pair("Question: How?\nAnswer:", " So."), Pair("Question: How?\nAnswer:", " Not so.")), 1, (3, 7)
        ),
    ),
    "hellaswag": (
        [
            {
                "activity_label": "Jump",
                "ctx_a": "He [header] runs.",
                "ctx_b": "the boy",
                "endings": ["stops.[step]", "  falls [title] down."],
                "label": "0",
            },
            {"context": "Jump: He  runs. The boy", "choices": ["stops.", "falls.  down."], "gold": 0},
        ],
        Item(
            (Pair("Jump: He runs. The boy", " stops."), Pair("Jump: He runs. The boy", " falls. down.")),
            0,
            (6, 12),
        ),
    ),
    "winogrande": (
        [
            {"sentence": "Sarah helped Ann so _ left.", "option1": "Sarah", "option2": "Ann", "answer": "2"},
            {
                "contexts": ["Sarah helped Ann so Sarah", "Sarah helped Ann so Ann"],
                "continuation": "left.",
                "gold": 1,
            },
        ],
        Item(
            (Pair("Sarah helped Ann so Sarah", " left."), Pair("Sarah helped Ann so Ann", " left.")),
            1,
            (25, 23),
        ),
    ),
    "arc_easy": (
        [
            {"question": "Why?", "choices": {"text": ["a", "bc"], "label": ["1", "2"]}, "answerKey": "2"},
            {"context": "Question: Why?", "choices": ["a", "bc"], "gold": 1},
        ],
        Item((Pair("Question: Why?\nAnswer:", " a"), Pair("Question: Why?\nAnswer:", " bc")), 1, (1, 2)),
    ),
    "siqa": (
        [
            {
                "context": "It rains.",
                "question": "Then?",
                "answerA": "run",
                "answerB": "sit",
                "answerC": "go",
                "label": "3",
            },
            {"context": "It rains.", "question": "Then?", "choices": ["run", "sit", "go"], "gold": 2},
        ],
        Item(tuple(Pair("Q: It rains. Then?\nA:", f" {a}") for a in ("run", "sit", "go")), 2, (3, 3, 2)),
    ),
    "boolq": (
        [
            {"passage": "Ice floats.", "question": "does ice float", "label": 1},
            {"passage": "Ice floats.", "question": "does ice float", "answer": True},
            {
                "context": "Passage: Ice floats.\nQuestion: does ice float?",
                "choices": ["no", "yes"],
                "gold": 1,
            },
        ],
        Item(
            tuple(Pair("Ice floats.\nQuestion: does ice float?\nAnswer:", f" {a}") for a in ("no", "yes")),
            1,
            (2, 3),
        ),
    ),
    "lambada": (
        [{"text": "I can make it, Shane"}, {"context": "I can make it,", "target": "Shane"}],
        Item((Pair("I can make it,", " Shane"),), 0, (5,)),
    ),
}


@pytest.mark.parametrize(
    ("task", "row", "item"),
    [(task, row, item) for task, (rows, item) in SAME.items() for row in rows],
)
def test_a_row_of_either_kind_is_asked_as_lm_eval_asks_it(task: str, row: dict[str, Any], item: Item) -> None:
    assert TASKS[task].item(row) == item


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("task", "broken", "said"),
    [
        ("piqa", "{", "expected JSON, found"),
        ("piqa", "[]", r"expected an object, found \[\]"),
        ("piqa", "{}", "expected a text as 'context', found None"),
        (
            "piqa",
            '{"context": "a", "choices": ["b"], "gold": 1}',
            "right answer's number from 0 to 0, found 1",
        ),
        ("piqa", '{"context": "a", "choices": "b", "gold": 0}', "a list of texts as 'choices', found 'b'"),
        ("piqa", '{"context": "a", "choices": [], "gold": 0}', "one answer at least, found none"),
        ("piqa", '{"context": "a", "choices": ["b"], "gold": true}', "a whole number as 'gold', found True"),
        ("winogrande", '{"sentence": "no gap"}', "'sentence' with a blank '_', found 'no gap'"),
        (
            "arc_easy",
            '{"question": "?", "answerKey": "A", "choices": 5}',
            "'choices' with 'text' and 'label'",
        ),
        (
            "arc_easy",
            '{"question": "?", "answerKey": "E", "choices": {"text": ["x"], "label": ["A"]}}',
            r"'answerKey' among \['A'\], found 'E'",
        ),
        ("boolq", '{"passage": "a", "question": "b", "label": "no"}', "'label' of 0 or 1, found 'no'"),
    ],
)
def test_a_broken_row_is_named_with_what_was_expected(
    task: str, broken: str, said: str, tmp_path: Path
) -> None:
    good = json.dumps(SAME[task][0][0])
    with pytest.raises(DataError, match=f"rows.jsonl, row 3: expected .*{said.removeprefix('expected ')}"):
        read_items(_file(tmp_path, good, "", broken), TASKS[task])


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b'{"context": "a\\ud800"}', "valid Unicode, found half a surrogate pair"),
        (b'{"context": "a\xff", "choices": ["b"], "gold": 0}', "UTF-8, found byte 0xff"),
    ],
)
def test_a_row_that_is_no_unicode_is_named_too(broken: bytes, said: str, tmp_path: Path) -> None:
    good = json.dumps({"context": "\U0001f642", "choices": ["b"], "gold": 0}).encode()
    assert b"ud83d" in good, "a whole pair is fine"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\r\n".join([good, good, broken, good]))
    with pytest.raises(DataError, match=f"^rows.jsonl, row 3: expected {said}$"):
        read_items(path, TASKS["piqa"])


def test_a_row_of_a_megabyte_is_not_repeated(tmp_path: Path) -> None:
    path = _file(tmp_path, json.dumps({"context": ["x" * (1 << 20)]}))
    with pytest.raises(DataError, match="row 1: expected a text as 'context'") as refusal:
        read_items(path, TASKS["piqa"])
    assert len(str(refusal.value)) < 400


def test_files_without_rows_or_articles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl: expected one row at least, found none"):
        read_items(_file(tmp_path, ""), TASKS["piqa"])
    with pytest.raises(DataError, match="expected an article's heading"):
        read_articles(_file(tmp_path, "no heading"))
    with pytest.raises(DataError, match="cannot be read"):
        read_items(tmp_path / "absent.jsonl", TASKS["piqa"])


def test_articles_are_cut_at_titles_and_written_as_people_write(tmp_path: Path) -> None:
    lines = [
        "",
        " = One = ",
        "",
        ' He said , " two @-@ three ( 1 @,@ 000 ) . " ',
        " = = Part = = ",
        "",
        " = Two = ",
        " x ",
    ]
    articles = read_articles(_file(tmp_path, *lines))
    assert [article.split("\n")[0] for article in articles] == [" = One = ", " = Two = "]
    assert detokenised(articles[0]) == ' = One =\n\nHe said, "two-three (1,000)."\n== Part ==\n'


def test_every_token_of_a_long_text_is_judged_once() -> None:
    """As lm-eval cuts: whole windows after the token before them, the last one with a full context."""
    assert windows([1, 2, 3, 4, 5], 0, 2) == [
        Judged((0, 1, 2), 2),
        Judged((2, 3, 4), 2),
        Judged((3, 4, 5), 1),
    ]
    assert (
        windows([1, 2, 3, 4, 5], 0, None) == windows([1, 2, 3, 4, 5], 0, 5) == [Judged((0, 1, 2, 3, 4, 5), 5)]
    )


class Fixed:
    """Characters are tokens; a text's likelihood is looked up by what is judged of it."""

    def __init__(self, nats: dict[str, float]) -> None:
        self.nats = nats
        self.batches: list[int] = []

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def prefix(self) -> int:
        return 0

    def score(self, batch: Sequence[Judged]) -> list[Likelihood]:
        self.batches.append(len(batch))
        judged = ["".join(map(chr, one.ids[len(one.ids) - one.count :])) for one in batch]
        return [Likelihood(self.nats[text], self.nats[text] > -2) for text in judged]


def test_accuracy_counts_the_likeliest_answer_and_the_likeliest_a_character() -> None:
    items = [Item((Pair("q", " aaaa"), Pair("q", " b")), gold, (4, 1)) for gold in (0, 0, 1)]
    scorer = Fixed({" aaaa": -6.0, " b": -2.0})  # b is likelier, a's likelier a character: -1.5 against -2
    figures, rows = choice_figures(scorer, TASKS["piqa"], items, batch=4)
    assert figures["acc"] == pytest.approx(1 / 3)
    assert figures["acc_norm"] == pytest.approx(2 / 3)
    assert figures["acc_stderr"] == pytest.approx(math.sqrt((1 / 3) / 3))
    assert scorer.batches == [4, 2]
    assert rows == [
        {"nats": [-6.0, -2.0], "acc": float(gold == 1), "acc_norm": float(gold == 0)} for gold in (0, 0, 1)
    ]
    plain, _ = choice_figures(scorer, TASKS["boolq"], items, batch=4)
    assert "acc_norm" not in plain
    assert "| acc | 0.3333 | 0.3333 |" in table("piqa", figures)


def test_the_last_word_has_a_perplexity_and_an_accuracy() -> None:
    items = [Item((Pair("so", f" {word}"),), 0, (1,)) for word in "ab"]
    figures, rows = last_word_figures(Fixed({" a": -1.0, " b": -3.0}), items, batch=1)
    assert rows == [{"nats": [-1.0], "acc": 1.0}, {"nats": [-3.0], "acc": 0.0}]
    assert figures["perplexity"] == pytest.approx(math.exp(2.0))
    assert figures["perplexity_stderr"] == pytest.approx(math.exp(2.0) * 1.0)
    assert figures["acc"] == 0.5


def test_words_and_bytes_are_those_of_the_file() -> None:
    article = " a , é "
    figures, rows = text_figures(Fixed({" a, é ": -12.0}), [article], window=None, batch=1)
    assert rows == [{"nats": [-12.0]}]
    assert figures["word_perplexity"] == pytest.approx(math.exp(12 / 5))  # lm-eval counts the empty ends too
    assert figures["bits_per_byte"] == pytest.approx(12 / 8 / math.log(2))
    assert figures["token_perplexity"] == pytest.approx(math.exp(12 / 6))


def test_windows_of_an_article_are_added_up() -> None:
    scorer = Fixed({"ab": -3.0, "c": -1.0, "xy": -5.0})
    figures, rows = text_figures(scorer, ["abc", "xy"], window=2, batch=8)
    assert rows == [{"nats": [-4.0]}, {"nats": [-5.0]}]
    assert figures["token_perplexity"] == pytest.approx(math.exp(9 / 5))


class Merging(Fixed):
    """Its token 1 is "ab" in one."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text.replace("ab", "\x01")]


def test_what_is_judged_follows_the_contexts_own_tokens() -> None:
    """Also where a token of both texts reaches over their border; a continuation may then be empty."""
    scorer = Merging({"b": -1.0})
    assert judged_pair(scorer, Pair("xa", "bb")) == Judged((ord("x"), ord("a"), ord("b")), 1)
    nothing = Item((Pair("xa", "b"),), 0, (1,))
    assert judged_pair(scorer, nothing.pairs[0]) == Judged((ord("x"), ord("a")), 0)
    assert last_word_figures(scorer, [nothing], batch=1)[1] == [{"nats": [0.0], "acc": 1.0}]
    assert scorer.batches == []


def test_a_text_that_begins_with_the_token_before_a_text_has_no_other_before_it() -> None:
    assert judged_pair(Fixed({}), Pair("", "\0ab")) == Judged((0, ord("a"), ord("b")), 2)


@pytest.fixture(scope="module")
def scorer() -> HopeScorer:
    _, tokenizer = load_checkpoint(resolve("hope-tiny"))
    return HopeScorer(build(small_config(vocab_size=tokenizer.vocab_size), torch.float64), tokenizer)


def test_a_model_scores_texts_of_any_length_in_one_batch(scorer: HopeScorer) -> None:
    parts = [
        judged_pair(scorer, Pair("The cat sat on", text))
        for text in (" the mat.", " it", " a much longer one")
    ]
    together = scorer.score(parts)
    for part, found in zip(parts, together, strict=True):
        model = scorer._model
        state, nats = model.initial_state(1), 0.0
        for at, (token, following) in enumerate(zip(part.ids, part.ids[1:], strict=False)):
            logits, state = model.step(torch.tensor([token]), state)
            if at >= len(part.ids) - 1 - part.count:
                nats += float(logits[0].log_softmax(-1)[following])
        assert found.nats == pytest.approx(nats, rel=1e-5)
        assert scorer.score([part])[0].nats == pytest.approx(nats, rel=1e-5)


def test_spaces_at_a_contexts_end_belong_to_what_follows(scorer: HopeScorer) -> None:
    assert judged_pair(scorer, Pair("The cat ", "sat")) == judged_pair(scorer, Pair("The cat", " sat"))
    alone = judged_pair(scorer, Pair("", "sat"))
    assert alone.ids[0] == scorer.prefix()
    assert alone.count == len(alone.ids) - 1


def test_a_pre_trained_model_judges_a_session_as_it_is_read() -> None:
    """Over the ends of launches; the session before leaves nothing behind."""
    model = tiny_model()
    scorer = AttentionScorer(SessionRows(model, 1), cast(PretrainedTokenizer, None), 0)
    parts = [Judged(tuple((7 * at + row) % 29 for at in range(150 - row)), 90 - row) for row in (0, 3)]
    for part, found in zip(parts, scorer.score(parts), strict=True):
        rows, nats, greedy = SessionRows(model, 1), 0.0, True
        for at, (token, following) in enumerate(pairwise(part.ids)):
            logits = rows.read(0, [token], ["text"])
            if at >= len(part.ids) - 1 - part.count:
                nats += float(logits.log_softmax(-1)[following])
                greedy = greedy and int(logits.argmax()) == following
        assert found.nats == pytest.approx(nats, rel=1e-4)
        assert found.greedy == greedy
        top = int(logits.argmax())
        (ended,) = scorer.score([Judged((*part.ids[:-1], top), 1)])
        assert ended.greedy


def test_tokens_that_share_the_first_place_are_each_the_likeliest(scorer: HopeScorer) -> None:
    part = judged_pair(scorer, Pair("The cat sat on", " the mat"))
    hidden, _ = scorer._model.hidden(torch.tensor([part.ids[:-1]]), scorer._model.initial_state(1))
    logits = scorer._model.logits(hidden[0, -1])
    with pytest.MonkeyPatch.context() as patch:
        even = logits.clone()
        even[[0, part.ids[-1]]] = logits.max()
        patch.setattr(scorer._model, "logits", lambda hidden: even.expand(len(hidden), -1))
        (found,) = scorer.score([Judged(part.ids, 1)])
    assert found.greedy


@pytest.mark.parametrize(
    ("task", "option", "said"),
    [
        ("piqa", ["--window", "8"], "window: expected with wikitext alone, found with piqa"),
        ("wikitext", ["--prefix-token", "0"], "prefix_token: expected with --url alone"),
        (
            "piqa",
            ["--quantize", "int8", "--url", "http://test"],
            "quantize: expected a model of this process",
        ),
        ("piqa", ["--limit", "0"], "limit: expected a positive number, found 0"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(task: str, option: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(), None)
    args = parser.parse_args(["task", task, "no-such-file", *option])
    with pytest.raises(ConfigError, match=said):
        args.run_command(args)


@pytest.mark.parametrize(("add_bos", "prefix"), [(True, talking.START), (False, EOS)])
def test_a_pre_trained_model_reads_a_text_after_the_token_that_its_checkpoint_says(
    tmp_path: Path, add_bos: bool, prefix: int
) -> None:
    folder = talking.write_checkpoint(tmp_path / "base", add_bos=add_bos)
    args = argparse.Namespace(url=None, model=str(folder), quantize="none")
    assert cli._scorer(args, None, ExitStack()).prefix() == prefix


def _logprobs(values: list[Any], tops: list[Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "logprobs": {"token_logprobs": values, "top_logprobs": tops}}]}


def _server(answer: Any, status: int = 200) -> RemoteScorer:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        return httpx.Response(status, text="oops" if answer is None else json.dumps(answer))

    client = httpx.Client(transport=httpx.MockTransport(handle))
    return RemoteScorer("http://test/v1/", "m", client, key="secret")


def test_a_server_is_asked_for_echoed_log_probabilities() -> None:
    logprobs = {
        "tokens": ["a", "b", "c", "d"],
        "token_logprobs": [None, -0.5, -1.5, -9.0],
        "top_logprobs": [None, {"x": -0.5}, {"x": -0.1, "c": -1.5}, {"d": -9.0}],
    }  # x is as likely as b
    answer = {"choices": [{"index": 1, "logprobs": logprobs}, {"index": 0, "logprobs": logprobs}]}
    found = _server(answer).score([Judged((1, 2, 3), 2), Judged((1, 2), 1)])
    assert found == [Likelihood(-2.0, False), Likelihood(-0.5, True)]


@pytest.mark.parametrize(
    ("info", "prefix"),
    [
        ({"eos_token": "<e>", "bos_token": "<b>"}, ord("b")),
        ({"eos_token": "<e>", "bos_token": None}, ord("e")),
        ({"eos_token": "<e>"}, ord("e")),
    ],
)
def test_a_text_stands_after_what_begins_one_or_else_ends_one(info: dict[str, Any], prefix: int) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/tokenizer_info":
            return httpx.Response(200, json=info)
        return httpx.Response(200, json={"tokens": [ord(json.loads(request.content)["prompt"][1])]})

    client = httpx.Client(transport=httpx.MockTransport(handle))
    assert RemoteScorer("http://test", "m", client).prefix() == prefix


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ({"error": "busy"}, 503, "expected status 200, found 503: .*busy"),
        ({"choices": []}, 200, "expected log-probabilities of 1 echoed prompts"),
        ({"choices": [{"index": 0, "logprobs": None}]}, 200, "expected log-probabilities"),
        (None, 502, "no answer that can be read: status 502"),
        (
            _logprobs([None, float("nan")], [None, {"a": float("nan")}]),
            200,
            "log-probabilities that are none",
        ),
        (_logprobs([None, -1e400], [None, {"a": -1e400}]), 200, "log-probabilities that are none"),
        (_logprobs([None, 7.0], [None, {"a": 7.0}]), 200, "log-probabilities that are none"),
        (_logprobs([None, -1.0], [None, ["a"]]), 200, "expected log-probabilities of 1 echoed"),
        (_logprobs([None, "-1.0"], [None, {"a": "-1.0"}]), 200, "expected log-probabilities of 1 echoed"),
    ],
)
def test_a_server_that_answers_otherwise_is_an_error(answer: Any, status: int, said: str) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        _server(answer, status).score([Judged((1, 2), 1)])
    assert caught.value.code == "evaluation_failed"


@pytest.mark.parametrize(
    ("url", "key"), [("http://te\nst", "secret"), ("http://test", "sécret"), ("http://test", "secret")]
)
def test_what_cannot_be_sent_or_read_is_an_error(url: str, key: str) -> None:
    deep = httpx.MockTransport(lambda _: httpx.Response(200, text="[" * 100_000))
    with pytest.raises(EvaluationError, match="no answer that can be read"):
        RemoteScorer(url, "m", httpx.Client(transport=deep), key=key).encode("x")


def test_a_perplexity_beyond_a_float_is_infinite(
    tmp_path: Path, scorer: HopeScorer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of an article in a language without spaces."""
    monkeypatch.setattr(cli, "_scorer", lambda *_: scorer)
    file, out = tmp_path / "one.txt", tmp_path / "out.json"
    file.write_text(" = T = \n" + "語" * 400)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(), None)
    args = parser.parse_args(["task", "wikitext", str(file), "--json", str(out)])
    assert args.run_command(args) == 0
    assert "| word_perplexity | inf |" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["word_perplexity"] is None
    assert figures["token_perplexity"] > 1
    word = read_items(_file(tmp_path, json.dumps({"text": "a " + "語" * 400})), TASKS["lambada"])
    assert last_word_figures(scorer, word, batch=1)[0]["perplexity_stderr"] == float("inf")
