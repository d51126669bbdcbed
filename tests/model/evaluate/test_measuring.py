"""What makes one measurement another: its results are not gone on with."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from hope_model.errors import ConfigError
from hope_model.evaluate import measuring
from hope_model.evaluate.subjects import Named


def _run(out: Path, **changes: Any) -> int:
    args = Namespace(
        **{"out": out, "origin": "text", "conditions": ["on"], "weights": "aa", "quantize": "none"} | changes
    )
    return measuring.run(
        args,
        "m",
        {},
        lambda named, ledger, _progress: ledger.add({"model": named.name}),
        lambda _ledger: "",
        find=None,
        open_server=None,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "bb"}, "models"),
        ({"origin": "user"}, "origin"),
        ({"conditions": ["off"]}, "conditions"),
        ({"quantize": "int4"}, "quantize"),
    ],
)
def test_other_models_or_ways_to_measure_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    @contextmanager
    def subjects(args: Namespace, _find: object, _open: object) -> Iterator[list[Named]]:
        yield [Named("n", args.weights, cast(Any, None))]

    monkeypatch.setattr(measuring, "named_subjects", subjects)
    assert _run(tmp_path) == _run(tmp_path) == 0
    with pytest.raises(ConfigError, match=f"other settings: expected {said} "):
        _run(tmp_path, **changes)
