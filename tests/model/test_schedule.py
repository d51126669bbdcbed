"""Cutting a run of tokens at the multiples of a period."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from hope_model.schedule import run_lengths


@given(phase=st.integers(0, 300), tokens=st.integers(1, 300), period=st.integers(1, 64))
def test_parts_join_to_the_run_and_end_at_every_multiple(phase: int, tokens: int, period: int) -> None:
    parts = run_lengths(phase, tokens, period)
    ends = list(accumulate(parts, initial=phase))[1:]
    due = [end for end in range(phase + 1, phase + tokens + 1) if end % period == 0]
    assert ends[-1] == phase + tokens
    assert min(parts) >= 1
    assert [end for end in ends if end % period == 0] == due
    assert [end for end in ends[:-1] if end % period] == []
