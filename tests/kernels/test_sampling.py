"""Choosing the token with the largest score, and keeping the most likely ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.kernels import plain
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


@each_kernel
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])  # x86 computes NaNs with a sign
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sampling_a_row_whose_logits_are_not_finite_returns_minus_one(kernel, value, temperature):
    logits = np.zeros((3, 5), np.float32)
    logits[1, 3] = value
    temperatures = np.full(3, temperature, np.float32)
    assert kernel.sample(logits, temperatures, np.zeros(3)).tolist() == [0, -1, 0]


@each_kernel
@given(
    seed=st.integers(0, 2**32),
    vocabulary=st.sampled_from([1, 511, 512, 513, 1700]),
    odd=st.lists(st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, -0.0, 3e38]), max_size=3),
    temperature=st.sampled_from([1.0, 0.5]),
)
def test_a_token_chosen_from_a_large_vocabulary_equals_the_plain_one(
    kernel, seed, vocabulary, odd, temperature
):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 1, (3, vocabulary)).astype(np.float32)
    noise = rng.integers(0, 2, logits.shape).astype(np.float64)
    logits[1, rng.integers(0, vocabulary, len(odd))] = odd
    with np.errstate(over="ignore"):
        for given_noise in (noise, None):
            expected = plain.choose(logits, temperature, given_noise)
            assert kernel.choose(logits, temperature, given_noise).tolist() == expected.tolist()


SCORES = st.one_of(
    st.integers(-3, 3).map(float),  # ties
    st.floats(-60, 60, width=32),
    st.sampled_from([-np.inf, -0.0, 0.0, 1e-30, -1e-30, 3e38, -3e38]),
)


@each_kernel
@settings(max_examples=300)
@given(
    scores=st.lists(SCORES, min_size=1, max_size=40).filter(lambda row: max(row) > -np.inf),
    top_k=st.integers(0, 45),
    top_p=st.one_of(st.sampled_from([1.0, 0.9, 0.5, 1e-9]), st.floats(1e-6, 1.0)),
)
def test_top_k_and_top_p_keep_the_highest_scores_that_reach_the_limit_and_no_more(
    kernel, scores, top_k, top_p
):
    scores = np.array(scores, np.float32)
    kept = kernel.truncate(scores[None], top_k, top_p)[0]
    order = np.argsort(-scores, kind="stable")  # ties go to the lowest token
    ranked = order[: top_k or None]
    with np.errstate(over="ignore"):
        weights = np.exp((scores - scores.max()).astype(np.float64))[ranked]
    shares = weights.cumsum() / weights.sum()
    # Where a sum equals top_p up to rounding, both numbers of tokens are right.
    least = 1 + int(np.sum(shares[:-1] < top_p * (1 - 1e-6)))
    most = 1 + int(np.sum(shares[:-1] < top_p * (1 + 1e-6)))
    answers = []
    for count in range(least, most + 1) if top_p < 1 else [len(ranked)]:
        answer = np.full_like(scores, -np.inf)
        answer[ranked[:count]] = scores[ranked[:count]]
        answers.append(answer.tolist())
    assert kept.tolist() in answers


@each_kernel
def test_truncation_of_a_real_vocabulary_equals_the_plain_one_and_does_not_depend_on_other_rows(
    kernel,
):
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(4, 49152)) * [[0.1], [1], [4], [30]]).astype(np.float32)
    for top_k, top_p in ((0, 0.9), (50, 1.0), (500, 0.8), (0, 1e-6)):
        found = kernel.truncate(scores, top_k, top_p)
        assert found.tobytes() == plain.truncate(scores, top_k, top_p).tobytes()
        alone = np.concatenate([kernel.truncate(row[None], top_k, top_p) for row in scores])
        assert found.tobytes() == alone.tobytes()


@each_kernel
def test_truncation_leaves_a_row_with_a_nan_visible_and_does_not_change_its_argument(kernel):
    scores = np.array([[3, np.nan, 1, 2], [3, 0, 1, 2]], np.float32)
    before = scores.copy()
    found = kernel.truncate(scores, 2, 0.9)
    assert np.isnan(found[0, 1]) and found[1].tolist() == [3, -np.inf, -np.inf, 2]
    np.testing.assert_array_equal(scores, before)


@each_kernel
@pytest.mark.parametrize("count", [2, 20, 46, 64, 66, 256])
def test_top_p_that_probabilities_reach_exactly_keeps_no_further_token(kernel, count):
    """All scores are equal, so the sums of their probabilities have no rounding errors."""
    exact = range(1, count) if count & (count - 1) == 0 else [count // 2]
    for kept in exact:
        found = kernel.truncate(np.zeros((1, count), np.float32), 0, kept / count)
        assert np.isfinite(found).sum() == kept
