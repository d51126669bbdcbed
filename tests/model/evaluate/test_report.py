"""The stream evaluation as files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from hope_model.evaluate.report import markdown, write_report
from hope_model.evaluate.stream import StreamLosses, StreamSettings

SETTINGS = StreamSettings(stream=8192, judged_from=4096, lead=2048)


def _losses(name: str, carried: float, frozen: float, fresh: float) -> StreamLosses:
    return StreamLosses(
        name,
        carried=torch.full((8192,), carried),
        frozen=torch.full((8192,), frozen),
        fresh=torch.full((4096,), fresh),
        settings=SETTINGS,
    )


RESULTS = [_losses("moby", 3.0, 3.5, 3.25), _losses("dracula", 2.0, 2.25, 1.75)]


def test_the_table_has_a_row_for_each_stream_and_their_mean() -> None:
    assert markdown(RESULTS).splitlines() == [
        "| stream | carried | fresh | frozen | carried minus fresh | gain of learning |",
        "|---|---|---|---|---|---|",
        "| moby | 3.0000 | 3.2500 | 3.5000 | -0.2500 | 0.5000 |",
        "| dracula | 2.0000 | 1.7500 | 2.2500 | 0.2500 | 0.2500 |",
        "| mean | 2.5000 | 2.5000 | 2.8750 | 0.0000 | 0.3750 |",
    ]


def test_the_table_is_written_and_returned(tmp_path: Path) -> None:
    table = write_report(RESULTS, tmp_path / "new" / "folder")
    assert table == markdown(RESULTS)
    assert (tmp_path / "new" / "folder" / "stream.md").read_text(encoding="utf-8") == table


def test_the_json_has_every_summary(tmp_path: Path) -> None:
    write_report(RESULTS, tmp_path)
    found = json.loads((tmp_path / "stream.json").read_text(encoding="utf-8"))
    assert found == {"moby": RESULTS[0].summary(), "dracula": RESULTS[1].summary()}


def test_the_plot_grows_with_the_streams(tmp_path: Path) -> None:
    from matplotlib.image import imread

    heights = []
    for count in (1, 2):
        write_report(RESULTS[:count], tmp_path)
        heights.append(imread(tmp_path / "stream.png").shape[0])
    assert heights[1] == 2 * heights[0]


def test_without_matplotlib_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_report(RESULTS, tmp_path)
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stream.json", "stream.md"]
