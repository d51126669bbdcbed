"""The nine benchmarks of `hope eval task`: the kit's file, lm-eval's own task, rows as they are published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from hope_model.evaluate.tasks.files import read_articles

Row = dict[str, Any]


def as_piqa(row: Row) -> Row:
    first, second = row["choices"]
    return {"goal": row["context"], "sol1": first, "sol2": second, "label": row["gold"]}


def as_hellaswag(row: Row) -> Row:
    """The kit has one context; one that ends within a sentence had a second part there."""
    activity, context = row["context"].split(": ", 1)
    first, second = context, ""
    if not context.endswith((".", "!", "?", '"', ")")) and ". " in context:
        first, second = context.rsplit(". ", 1)
        first += "."
    endings, gold = row["choices"], str(row["gold"])
    return {"activity_label": activity, "ctx_a": first, "ctx_b": second, "endings": endings, "label": gold}


def as_winogrande(row: Row) -> Row:
    first, second = row["contexts"]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    before = "".join(letter for letter, _ in same)
    before = before[: before.rfind(" ") + 1]
    return {
        "sentence": f"{before}_ {row['continuation']}",
        "option1": first.removeprefix(before),
        "option2": second.removeprefix(before),
        "answer": str(row["gold"] + 1),
    }


def as_arc(row: Row) -> Row:
    labels = list("ABCDE"[: len(row["choices"])])
    return {
        "question": row["context"].removeprefix("Question: "),
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


def as_siqa(row: Row) -> Row:
    answers = {f"answer{letter}": answer for letter, answer in zip("ABC", row["choices"], strict=True)}
    return {
        "context": row["context"],
        "question": row["question"],
        **answers,
        "label": str(row["gold"] + 1),
    }


def as_boolq(row: Row) -> Row:
    passage, question = row["context"].removeprefix("Passage: ").split("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": row["gold"]}


def as_lambada(row: Row) -> Row:
    return {"text": f"{row['context']} {row['target']}"}


@dataclass(frozen=True)
class Benchmark:
    """file: in the kit. definition: lm-eval's, below its folder of tasks."""

    file: str
    definition: str
    published: Callable[[Row], Row]

    def rows(self, kit: Path) -> Iterator[Row]:
        for line in (kit / self.file).read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            yield self.published(json.loads(line))


class WikiText(Benchmark):
    """Rows are articles of a text file, which `hope eval` reads as it is."""

    def rows(self, kit: Path) -> Iterator[Row]:
        for article in read_articles(kit / self.file):
            yield self.published({"page": article})


BENCHMARKS: dict[str, Benchmark] = {
    "wikitext": WikiText("lm/wikitext2_valid.txt", "wikitext/wikitext.yaml", dict),
    "lambada": Benchmark("lm/lambada_openai_test.jsonl", "lambada/lambada_openai.yaml", as_lambada),
    "piqa": Benchmark("mc/piqa_valid.jsonl", "piqa/piqa.yaml", as_piqa),
    "hellaswag": Benchmark("mc/hellaswag_val.jsonl", "hellaswag/hellaswag.yaml", as_hellaswag),
    "winogrande": Benchmark("mc/winogrande_xl_dev.jsonl", "winogrande/default.yaml", as_winogrande),
    "arc_easy": Benchmark("mc/arc_easy_test.jsonl", "arc/arc_easy.yaml", as_arc),
    "arc_challenge": Benchmark("mc/arc_challenge_test.jsonl", "arc/arc_challenge.yaml", as_arc),
    "siqa": Benchmark("mc/siqa_val.jsonl", "siqa/siqa.yaml", as_siqa),
    "boolq": Benchmark("mc/boolq_val.jsonl", "super_glue/boolq/default.yaml", as_boolq),
}
