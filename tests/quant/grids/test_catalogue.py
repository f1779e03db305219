"""Every law of the catalogue at its true value: it holds where it is said to hold, and elsewhere it is broken."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from tests.grid_properties import GRIDS, PROPERTIES, NothingSaid, broken_properties
from tests.strategies import matrices_for, uniform_grids

each_law = pytest.mark.parametrize("law", PROPERTIES, ids=lambda law: law.name)


def draw_and_check(law, data):
    those = [grid for grid in GRIDS if law.about(grid) and law.holds(grid)]
    assume(those)
    any_uniform = uniform_grids().filter(lambda grid: law.about(grid) and law.holds(grid))
    uniform = any(hasattr(grid, "policy") for grid in those)
    grid = data.draw(
        st.one_of(st.sampled_from(those), any_uniform) if uniform else st.sampled_from(those)
    )
    x, seed = data.draw(matrices_for(grid)), data.draw(st.integers(0, 2**32))
    try:
        law.check(grid, x, np.random.default_rng(seed))
    except NothingSaid:
        assume(False)


@pytest.mark.parametrize(
    "law", [law for law in PROPERTIES if any(law.holds(g) for g in GRIDS)], ids=lambda law: law.name
)
@given(data=st.data())
@settings(max_examples=40)
def test_it_holds(law, data):
    draw_and_check(law, data)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law", [law for law in PROPERTIES if any(law.holds(g) for g in GRIDS)], ids=lambda law: law.name
)
@given(data=st.data())
@settings(max_examples=600)
def test_it_holds_in_hundreds_of_examples(law, data):
    draw_and_check(law, data)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_on_the_fixed_examples_a_grid_breaks_exactly_the_laws_that_are_false_for_it(grid):
    false = {law.name for law in PROPERTIES if law.about(grid) and not law.holds(grid)}
    broken = broken_properties(grid)
    assert broken.keys() == false, {
        name: text for name, text in broken.items() if name not in false
    }
