"""Every property of the catalogue is true for the stated grids and false for the others."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from tests.grid_properties import GRIDS, PROPERTIES, NotApplicable, broken_properties
from tests.helpers.strategies import matrices_for, uniform_grids

each_true_property = pytest.mark.parametrize(
    "prop",
    [prop for prop in PROPERTIES if any(prop.holds(grid) for grid in GRIDS)],
    ids=lambda prop: prop.name,
)


def draw_and_check(prop, data):
    grids = [grid for grid in GRIDS if prop.about(grid) and prop.holds(grid)]
    assume(grids)
    any_uniform = uniform_grids().filter(lambda grid: prop.about(grid) and prop.holds(grid))
    uniform = any(hasattr(grid, "policy") for grid in grids)
    grid = data.draw(
        st.one_of(st.sampled_from(grids), any_uniform) if uniform else st.sampled_from(grids)
    )
    x, seed = data.draw(matrices_for(grid)), data.draw(st.integers(0, 2**32))
    try:
        prop.check(grid, x, np.random.default_rng(seed))
    except NotApplicable:
        assume(False)


@each_true_property
@given(data=st.data())
@settings(max_examples=40)
def test_every_property_holds_on_the_grids_it_is_stated_for(prop, data):
    draw_and_check(prop, data)


@pytest.mark.slow
@each_true_property
@given(data=st.data())
@settings(max_examples=600)
def test_every_property_holds_on_hundreds_of_examples(prop, data):
    draw_and_check(prop, data)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_grid_breaks_exactly_the_properties_that_are_false_for_it(grid):
    false = {prop.name for prop in PROPERTIES if prop.about(grid) and not prop.holds(grid)}
    broken = broken_properties(grid)
    assert broken.keys() == false, {
        name: error for name, error in broken.items() if name not in false
    }
