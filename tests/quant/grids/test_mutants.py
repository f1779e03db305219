"""Every mutant is detected by the property or the test that it names."""

import re

import pytest

from minimtp.quant.grids import grid_named
from tests.grid_properties import PROPERTIES, broken_properties
from tests.mutants import in_place, load

MUTANTS = load()


def test_at_least_25_mutants_have_an_issue_number_and_all_names_differ():
    numbered = [one for one in MUTANTS if re.search(r"#\d+", one.found)]
    assert len(numbered) >= 25
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_each_mutant_is_detected(one, monkeypatch):
    with in_place(one, monkeypatch):
        if one.test is None:
            assert broken_properties(
                grid_named(one.grid),
                [each for each in PROPERTIES if each.name == one.property_name],
            ), one.found
        else:
            with pytest.raises(Exception):  # noqa: B017  (a failed assertion or a crash)
                one.test()


@pytest.mark.slow
@pytest.mark.parametrize(
    "one", [one for one in MUTANTS if one.property_name], ids=lambda one: one.name
)
def test_the_catalogue_detects_each_mutant_by_the_named_property(one, monkeypatch):
    grid = grid_named(one.grid)
    with in_place(one, monkeypatch):
        broken = broken_properties(grid)
    assert one.property_name in broken, f"{one.found} breaks {sorted(broken) or 'no property'}"


@pytest.mark.parametrize(
    "test", dict.fromkeys(one.test for one in MUTANTS if one.test), ids=lambda test: test.__name__
)
def test_each_detecting_test_passes_without_the_mutant(test):
    test()
