"""The name of a mixture gives every matrix of a block its grid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.quant.grids import BLOCK_GRIDS
from minimtp.quant.grids.mixture import MATRICES, first_grid, grids_of_blocks, mixture_name

mixtures = st.fixed_dictionaries(
    {matrix: st.sampled_from([*BLOCK_GRIDS, "f16", "nf4-g64"]) for matrix in MATRICES}
)


@given(mixtures)
def test_the_name_of_a_mixture_means_that_mixture_and_no_shorter_name_does(grids):
    name = mixture_name(grids)
    assert {matrix: grid.name for matrix, grid in grids_of_blocks(name).items()} == grids
    assert name.count("=") == len(MATRICES) - max(map([*grids.values()].count, grids.values()))
    assert first_grid(name) in grids.values()


@pytest.mark.parametrize("name", ["q4_0", "int4-affine-channel"])
def test_the_name_of_one_grid_is_a_mixture_of_that_grid_alone(name):
    assert {grid.name for grid in grids_of_blocks(name).values()} == {name}


@pytest.mark.parametrize(
    "name, message",
    [
        ("q4_0,attention=q5_0", "'attention' is no matrix of a block: .* qkv, output, gate_up, do"),
        ("q4_0,", "'' is no matrix"),
        ("q4_0,q5_0", "'q5_0' is no matrix"),
        ("q4_0,qkv=q5_0,qkv=q8_0", "'qkv' is named twice"),
        ("q4_0,qkv=q5", "unknown grid 'q5'"),
        ("q4_0,qkv", "unknown grid ''"),
        ("qkv=q5_0", "unknown grid 'qkv=q5_0'"),
    ],
)
def test_a_name_that_is_no_mixture_is_refused_with_the_names_that_are(name, message):
    with pytest.raises(UserError, match=message):
        grids_of_blocks(name)
