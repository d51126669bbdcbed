"""Shares by two things at once."""

from hope_model.evaluate.heat_map import shares_of


def test_shares_stand_by_row_and_column_and_what_was_not_measured_is_none() -> None:
    cells = [{"a": 1, "b": 2, "x": 0.25}, {"a": 3, "b": 2, "x": 0.5}, {"a": 3, "b": 1, "x": 0.75}]
    assert shares_of(cells, "x", ("a", [1, 3]), ("b", [1, 2])) == [[None, 0.25], [0.75, 0.5]]
