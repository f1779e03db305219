"""Choosing the token with the largest score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from tests.kernels.both import each_kernel


@each_kernel
@given(seed=st.integers(0, 2**32), temperature=st.sampled_from([1.0, 0.5, 2.5]))
def test_the_chosen_token_has_the_largest_score_and_ties_go_to_the_lowest_id(
    kernel, seed, temperature
):
    rng = np.random.default_rng(seed)
    logits, noise = (
        rng.integers(0, 5, (6, 9)).astype(np.float32),
        rng.integers(0, 3, (6, 9)).astype(np.float64),
    )
    for given_noise in (noise, None):
        scores = logits / np.float32(temperature) + (0 if given_noise is None else noise)
        for row, token in enumerate(kernel.choose(logits, temperature, given_noise).tolist()):
            assert all(score < scores[row, token] for score in scores[row, :token])
            assert all(score <= scores[row, token] for score in scores[row, token:])


@each_kernel
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_choosing_a_token_whose_logit_is_not_finite_returns_minus_one(kernel, value):
    logits = np.zeros((3, 5), np.float32)
    logits[1, 3] = value
    assert kernel.choose(logits, 0.8, np.zeros((3, 5))).tolist() == [0, -1, 0]
