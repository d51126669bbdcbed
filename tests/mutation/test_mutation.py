"""Every mutation still fits the source; the quick ones are made, and killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.mutation.matrix import Unfit, check_fits, copy_tree, outcomes
from tests.mutation.mutations import MUTATIONS, Mutation

QUICK = [mutation for mutation in MUTATIONS if mutation.quick]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_fits_the_source(mutation: Mutation) -> None:
    check_fits(mutation)


def test_names_are_different() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 25


def test_a_mutation_that_fits_no_more_is_named() -> None:
    with pytest.raises(Unfit, match="0 times"):
        check_fits(replace(MUTATIONS[0], before="what never was"))
    with pytest.raises(Unfit, match="no tests/gone"):
        check_fits(replace(MUTATIONS[0], tests=("tests/gone.py",)))


def test_the_quick_ones_are_killed_and_what_changes_nothing_survives(tmp_path: Path) -> None:
    """Without the second a red tree would pass for killed mutations."""
    harmless = replace(QUICK[0], after=QUICK[0].before + "\n", tests=QUICK[0].tests[:1])
    *found, same = outcomes([*QUICK, harmless], copy_tree(tmp_path))
    assert [outcome.mutation.name for outcome in found if not outcome.killed] == []
    assert not same.killed


@pytest.mark.slow
def test_each_is_killed(tmp_path: Path) -> None:
    found = outcomes(MUTATIONS, copy_tree(tmp_path))
    assert [outcome.mutation.name for outcome in found if not outcome.killed] == []
