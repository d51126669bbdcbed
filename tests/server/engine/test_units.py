"""Cutting runs into units: live session and replay must come to the same work."""

from dataclasses import dataclass
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from hope_server.engine.units import Unit, cut, cut_to_grid
from hope_server.sessions.session import Origin

BLOCK = 8
GRID = 64


@dataclass(frozen=True)
class Run:
    kind: Literal["run", "step", "reset"]
    tokens: tuple[int, ...]
    origin: Origin = "user"
    learn: bool = True


runs_strategy = st.lists(
    st.builds(
        Run,
        st.sampled_from(["run", "step"]),
        st.lists(st.integers(0, 99), min_size=1, max_size=30).map(tuple),
        st.sampled_from(["system", "user", "model"]),
        st.booleans(),
    ),
    max_size=8,
)


def flags(unit: Unit) -> tuple[bool, ...]:
    """Whether each of its tokens may teach."""
    return unit.learn or (True,) * len(unit.tokens)


def preview(units: list[Unit], before: list[Unit]) -> list[Unit]:
    """The launches that made the live row: those since the last boundary."""
    made = list(before)
    for unit in units:
        made = [] if unit.kind == "block" else [*made, unit]
    return made


@given(runs_strategy, st.integers(0, BLOCK - 1))
def test_every_token_is_read_once_in_order_and_blocks_are_whole(runs: list[Run], tail: int) -> None:
    units = cut(runs, tail=tail, block=BLOCK)
    found = [pair for unit in units for pair in zip(unit.tokens, flags(unit), strict=True)]
    assert found == [(token, run.learn) for run in runs for token in run.tokens]
    assert [unit.learned for unit in units] == [sum(flags(unit)) for unit in units]
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
            after.append(Run(run.kind, run.tokens[max(0, boundary - seen) :], learn=run.learn))
        seen += len(run.tokens)
    whole = cut(runs, tail=0, block=BLOCK)
    assert preview(cut(after, tail=0, block=BLOCK), []) == preview(whole, [])


def test_runs_inside_a_completed_block_need_no_preview_of_their_own() -> None:
    units = cut([Run("run", (1, 2)), Run("step", (3, 4)), Run("run", tuple(range(6)))], tail=1, block=BLOCK)
    assert units == [Unit("block", (1, 2, 3, 4, 0, 1, 2)), Unit("run", (3, 4, 5))]


@given(runs_strategy, st.integers(0, 1000))
def test_on_a_grid_every_token_is_read_once_with_its_origin(runs: list[Run], position: int) -> None:
    units = cut_to_grid(runs, position=position, grid=GRID)
    assert {unit.kind for unit in units} <= {"run"}
    found = [
        (token, origin, learn)
        for unit in units
        for token, origin, learn in zip(unit.tokens, unit.origins, flags(unit), strict=True)
    ]
    assert found == [(token, run.origin, run.learn) for run in runs for token in run.tokens]


@given(runs_strategy, st.integers(0, 1000))
def test_on_a_grid_units_end_at_its_multiples_and_are_as_long_as_can_be(
    runs: list[Run], position: int
) -> None:
    units = cut_to_grid(runs, position=position, grid=GRID)
    for unit in units:
        assert 1 <= len(unit.tokens) <= GRID - position % GRID
        position += len(unit.tokens)
        assert position % GRID == 0 or unit is units[-1]


@given(runs_strategy, st.integers(0, 1000), st.integers(0, 8))
def test_on_a_grid_the_cut_depends_on_positions_alone(runs: list[Run], position: int, turn: int) -> None:
    """How tokens came as runs does not matter, and a later turn ends where the whole would."""
    whole = cut_to_grid(runs, position=position, grid=GRID)
    singles = [Run("step", (token,), run.origin, run.learn) for run in runs for token in run.tokens]
    assert cut_to_grid(singles, position=position, grid=GRID) == whole
    first = cut_to_grid(runs[:turn], position=position, grid=GRID)
    position += sum(len(run.tokens) for run in runs[:turn])
    later = cut_to_grid(runs[turn:], position=position, grid=GRID)
    assert (later[1:] or whole[-1:]) == (whole[-len(later) + 1 :] if len(later) > 1 else whole[-1:])
    assert [t for unit in (*first, *later) for t in unit.tokens] == [t for unit in whole for t in unit.tokens]
