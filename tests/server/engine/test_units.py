"""Cutting runs into units: live session and replay must come to the same work."""

from dataclasses import dataclass
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from hope_server.engine.units import Unit, cut

BLOCK = 8


@dataclass(frozen=True)
class Run:
    kind: Literal["run", "step", "reset"]
    tokens: tuple[int, ...]


runs_strategy = st.lists(
    st.builds(
        Run,
        st.sampled_from(["run", "step"]),
        st.lists(st.integers(0, 99), min_size=1, max_size=30).map(tuple),
    ),
    max_size=8,
)


def preview(units: list[Unit], before: list[Unit]) -> list[Unit]:
    """The launches that made the live row: those since the last boundary."""
    made = list(before)
    for unit in units:
        made = [] if unit.kind == "block" else [*made, unit]
    return made


@given(runs_strategy, st.integers(0, BLOCK - 1))
def test_every_token_is_read_once_in_order_and_blocks_are_whole(runs: list[Run], tail: int) -> None:
    units = cut(runs, tail=tail, block=BLOCK)
    assert [t for unit in units for t in unit.tokens] == [t for run in runs for t in run.tokens]
    open_tokens = tail
    for unit in units:
        open_tokens += len(unit.tokens)
        if unit.kind == "block":
            assert open_tokens == BLOCK
            open_tokens = 0
        else:
            assert open_tokens < BLOCK
            assert unit.kind == "run" or len(unit.tokens) == 1


@given(runs_strategy, st.data())
def test_replay_in_one_piece_ends_in_the_preview_of_the_live_session(
    runs: list[Run], data: st.DataObject
) -> None:
    live: list[Unit] = []
    tail = position = 0
    rest = list(runs)
    while rest:  # turn by turn, as the session read them
        turn, rest = rest[: (size := data.draw(st.integers(1, 3)))], rest[size:]
        live = preview(cut(turn, tail=tail, block=BLOCK), live)
        position += sum(len(run.tokens) for run in turn)
        tail = position % BLOCK
    assert preview(cut(runs, tail=0, block=BLOCK), []) == live


@given(runs_strategy, st.data())
def test_replay_from_a_boundary_ends_in_the_same_preview(runs: list[Run], data: st.DataObject) -> None:
    total = sum(len(run.tokens) for run in runs)
    boundary = data.draw(st.integers(0, total // BLOCK)) * BLOCK
    after: list[Run] = []
    seen = 0
    for run in runs:
        if seen + len(run.tokens) > boundary:
            after.append(Run(run.kind, run.tokens[max(0, boundary - seen) :]))
        seen += len(run.tokens)
    whole = cut(runs, tail=0, block=BLOCK)
    assert preview(cut(after, tail=0, block=BLOCK), []) == preview(whole, [])


def test_runs_inside_a_completed_block_need_no_preview_of_their_own() -> None:
    units = cut([Run("run", (1, 2)), Run("step", (3, 4)), Run("run", tuple(range(6)))], tail=1, block=BLOCK)
    assert units == [Unit("block", (1, 2, 3, 4, 0, 1, 2)), Unit("run", (3, 4, 5))]
