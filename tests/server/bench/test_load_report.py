"""Figures of a load test, by hand; the plot and the table."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest

from hope_server.bench.answer import Sample
from hope_server.bench.cli import run_serve
from hope_server.bench.figures import percentile, summary
from hope_server.bench.load_report import plot, report, table
from hope_server.cli import BAD_SETTING, main


def sample(
    index: int, sent_s: float, *text_s: float, due_s: float | None = None, error: str | None = None
) -> Sample:
    due_s = sent_s if due_s is None else due_s
    return Sample(
        index, due_s, sent_s, text_s[-1] if text_s else sent_s, list(text_s), 10, len(text_s), error
    )


SAMPLES = [
    sample(0, 0.0, 50.0, 99.0),  # to warm up: its second would spoil everything
    sample(1, 10.0, 10.5, 10.75, 11.0),
    sample(2, 11.0, 11.5, 12.0, due_s=10.5),
    sample(3, 11.5, error="queue_full"),
]


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([0.0, 10.0], 90) == pytest.approx(9.0)
    assert percentile([4.0], 99) == 4.0
    assert summary([]) is None


def test_figures_by_hand() -> None:
    found = report(SAMPLES, warm_up=1)
    assert found["requests"] == {"measured": 3, "warm_up": 1, "whole": 2}
    assert found["errors"] == {"queue_full": 1}
    assert found["duration_s"] == pytest.approx(2.0)
    assert found["peak_in_flight"] == 1
    assert found["throughput"] == {
        "requests_per_s": 1.0,
        "output_tokens_per_s": 2.5,
        "total_tokens_per_s": 12.5,
    }
    latency = found["latency"]
    assert latency["ttft_s"]["max"] == pytest.approx(1.0)  # from when it was due, not from when it was sent
    assert latency["ttft_s"]["mean"] == pytest.approx(0.75)
    assert latency["inter_token_s"]["p50"] == pytest.approx(0.25)
    assert latency["time_per_output_token_s"]["max"] == pytest.approx(0.5)
    assert latency["e2e_s"]["max"] == pytest.approx(1.5)
    assert latency["start_delay_s"]["max"] == pytest.approx(0.5)


def test_a_table_says_what_went_wrong() -> None:
    said = table(report(SAMPLES, warm_up=1))
    assert said.startswith("2 of 3 answers whole in 2.0 s (after 1 to warm up, 1 at once at most)")
    assert "error queue_full: 1" in said
    assert "| time to first token | 750.0 |" in said


def test_of_nothing_there_is_a_table_and_a_plot(tmp_path: Path) -> None:
    assert "0 of 0 answers" in table(report([], warm_up=0))
    plot([], tmp_path / "load.png", warm_up=0)


def test_the_plot_is_an_image(tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot(SAMPLES, tmp_path / "load.png", warm_up=1)
    image = imread(tmp_path / "load.png")
    assert image.shape[1] > image.shape[0] > 300
    assert image[..., :3].std() > 0.05


def test_a_plot_without_matplotlib_is_refused_before_the_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "serve", "--plot", "x.png", "--url", "http://127.0.0.1:1"]) == BAD_SETTING
    assert "--plot: matplotlib is not installed" in capsys.readouterr().err
    assert callable(run_serve)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://127.0.0.1:1"], "cannot ask for its models"),
        (["--url", "nonsense"], "--url"),
    ],
)
def test_a_server_that_is_not_there_is_named(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *arguments]) == BAD_SETTING
    assert said in capsys.readouterr().err


def test_an_error_without_a_word_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As httpx has those of its time limits."""

    async def late(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("")

    monkeypatch.setattr(httpx.AsyncClient, "get", late)
    assert main(["bench", "serve"]) == BAD_SETTING
    assert "cannot ask for its models: ReadTimeout\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--rate", "1", "--concurrency", "2"],
        ["--requests", "0"],
        ["--warm-up", "-1"],
        ["--prompt-words", "9-3"],
        ["--prompt-words", "0"],
        ["--answer-tokens", "many"],
        ["--seed", "x"],
        ["--plot", "load.pgn"],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "serve", *arguments])
    assert end.value.code == BAD_SETTING
    assert arguments[0] in capsys.readouterr().err
