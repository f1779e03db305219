"""The divergence of two distributions, given as logits."""

import math

import pytest

from minimtp.backend import numpy as np
from minimtp.model import divergence

ROWS, VOCABULARY = 7, 19


@pytest.fixture
def kl_divergence(own):
    return own(divergence.kl_divergence)


@pytest.fixture
def pair():
    rng = np.random.default_rng(5)
    return [3.0 * rng.standard_normal((ROWS, VOCABULARY)) for _ in range(2)]


def probabilities(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_the_kl_divergence_is_computed_by_hand(kl_divergence):
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    found = kl_divergence(np.log(p), np.log(q))
    assert found.tolist() == pytest.approx([0.25 * math.log(2)]), (
        f"the example of the text is 1/4 ln 2 = 0.173, got {found}"
    )


def test_the_first_argument_is_the_one_that_is_averaged_over(kl_divergence):
    certain, even = np.array([[40.0, 0.0]]), np.array([[0.0, 0.0]])
    for expected, logits, kl in ((certain, even, math.log(2)), (even, certain, 20 - math.log(2))):
        found = kl_divergence(expected, logits)
        assert found == pytest.approx(kl), (
            f"the mean is over tokens drawn from softmax(expected): with expected = "
            f"{expected.tolist()} and logits = {logits.tolist()} it is {kl:.4f}, got {found}"
        )


def test_the_kl_divergence_is_the_sum_of_p_times_log_p_over_q(kl_divergence, pair):
    p, q = map(probabilities, pair)
    found = kl_divergence(*pair)
    assert found.shape == (ROWS,), f"{ROWS} rows have {ROWS} divergences, not {found.shape}"
    expected = (p * np.log(p / q)).sum(axis=1)
    assert found == pytest.approx(expected, rel=1e-12), (
        f"random logits, by row: expected {expected.round(4)}, got {found.round(4)}"
    )


def test_the_kl_divergence_of_equal_distributions_is_zero(kl_divergence, pair):
    shifted = pair[0] + np.arange(ROWS)[:, None]  # the same probabilities
    np.testing.assert_allclose(kl_divergence(pair[0], shifted), 0, atol=1e-12)


def test_the_kl_divergence_of_large_logits_is_finite(kl_divergence, pair):
    near, far = (100.0 * logits.astype(np.float32) for logits in pair)
    found = kl_divergence(near + 5000, far - 5000)
    assert np.isfinite(found).all() and (found >= 0).all(), (
        "logits near 5000 and -5000: subtract the maximum of each row of each array from that row; "
        f"expected finite numbers of 0 or more, got {found}"
    )
    np.testing.assert_allclose(
        found, kl_divergence(near.astype(np.float64), far.astype(np.float64)), rtol=1e-3
    )


def test_probabilities_far_too_small_for_a_float_still_count(kl_divergence):
    first, second = np.array([[900.0, 0.0]]), np.array([[0.0, 900.0]])
    for kind in (np.float64, np.float32):
        found = kl_divergence(first.astype(kind), second.astype(kind))
        assert found == pytest.approx(900), (
            "p = (1, e^-900) and q = (e^-900, 1), so the divergence is 900: "
            f"take the logarithms from the logits, not from the probabilities. Got {found}"
        )


def test_the_logits_stay_as_they_are(kl_divergence, pair):
    copies = [logits.copy() for logits in pair]
    kl_divergence(*pair)
    for logits, copy in zip(pair, copies, strict=True):
        assert (logits == copy).all()
