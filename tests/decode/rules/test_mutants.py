"""The enumeration that proves that a rule is exact detects every wrong rule."""

import inspect

import pytest

from tests.decode.rules.rule_properties import PAIRS, distance_to_target
from tests.rule_mutants import chains, trees

MUTANTS = [
    function
    for module in (chains, trees)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__
]
SOME_PAIRS = [PAIRS[f"random-{index}"] for index in (0, 1, 4, 5)]


def test_there_are_at_least_twelve_different_wrong_rules():
    assert len(MUTANTS) >= 12
    assert len({function.__name__ for function in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda function: function.__name__)
def test_the_enumeration_finds_the_wrong_rule(mutant):
    # The distance is below 1e-12 for an exact rule (test_chains.py, test_trees.py).
    assert max(distance_to_target(mutant(p, q), p) for p, q in SOME_PAIRS) > 0.01
