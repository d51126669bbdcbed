"""The slot table by example; test_scheduler drives it at random."""

import pytest

from hope_server.engine.slots import Seat, SlotTable


def test_a_row_stays_for_its_session_until_the_slot_is_needed() -> None:
    table = SlotTable(2)
    assert table.pin("a") == Seat(0, resident=False)
    table.unpin("a", keep=True)
    assert table.pin("a") == Seat(0, resident=True)
    table.unpin("a", keep=False)
    assert table.pin("a") == Seat(0, resident=False)


def test_the_least_recently_used_idle_row_goes_first_and_pinned_ones_never() -> None:
    table = SlotTable(3)
    for session in ("a", "b", "c"):
        table.pin(session)
    table.unpin("b", keep=True)
    table.unpin("a", keep=True)
    seat = table.pin("d")
    assert seat == Seat(1, resident=False, evicted="b")
    assert table.pin("e") == Seat(0, resident=False, evicted="a")
    assert table.pin("f") is None
    table.check_integrity()


def test_a_dropped_row_is_gone_and_only_idle_rows_can_be_dropped() -> None:
    table = SlotTable(1)
    table.pin("a")
    assert not table.drop("a")
    table.unpin("a", keep=True)
    assert table.slot("a") == 0
    assert table.drop("a")
    assert table.slot("a") is None
    assert table.pin("a") == Seat(0, resident=False)


def test_integrity_notices_a_doubled_slot() -> None:
    table = SlotTable(2)
    table.pin("a")
    table._free.append(0)
    with pytest.raises(AssertionError, match="doubled"):
        table.check_integrity()
