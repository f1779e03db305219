"""The museum's defects are all found: each by the law or the test that it says."""

import re

import pytest

from minimtp.quant.grids import grid_named
from tests.grid_properties import PROPERTIES, broken_properties
from tests.mutants import in_place, load

MUTANTS = load()


def test_there_are_at_least_25_defects_with_the_number_of_a_project_and_all_are_different():
    numbered = [one for one in MUTANTS if re.search(r"#\d+", one.found)]
    assert len(numbered) >= 25
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_a_property_kills_it(one, monkeypatch):
    with in_place(one, monkeypatch):
        if one.test is None:
            assert broken_properties(
                grid_named(one.grid), [law for law in PROPERTIES if law.name == one.law]
            ), one.found
        else:
            with pytest.raises(Exception):  # noqa: B017  (a wrong number or a crash: both are noticed)
                one.test()


@pytest.mark.slow
@pytest.mark.parametrize("one", [one for one in MUTANTS if one.law], ids=lambda one: one.name)
def test_the_whole_catalogue_kills_it_by_the_law_that_it_names(one, monkeypatch):
    grid = grid_named(one.grid)
    with in_place(one, monkeypatch):
        broken = broken_properties(grid)
    assert one.law in broken, f"{one.found} breaks {sorted(broken) or 'nothing'}"


@pytest.mark.parametrize(
    "test", dict.fromkeys(one.test for one in MUTANTS if one.test), ids=lambda test: test.__name__
)
def test_what_kills_it_holds_without_it(test):
    test()
