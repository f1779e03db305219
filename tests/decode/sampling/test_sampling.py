"""Sampling distributions equal their definition, and random samples follow them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.decode.sampling.gumbel_noise import BLOCK_NUMBERS, GumbelNoise
from minimtp.decode.sampling.params import GREEDY, SamplingParams, softmax
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.errors import UserError
from minimtp.kernels.plain import truncate

# Multiples of 1/4, so ties are common and exact.
LOGITS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=st.integers(-12, 12)
).map(lambda array: array / 4)
PROPERTIES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.integers(0, 8),
    top_p=st.sampled_from([1.0, 0.95, 0.6, 0.1]),
)


def probabilities_by_definition(logits, sampling):
    """Compute the probabilities of one row token by token, by the definition of SamplingParams."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if sampling.temperature == 0:
        return [float(token == ranked[0]) for token in range(len(logits))]
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    weight = {
        token: math.exp((logits[token] - logits[ranked[0]]) / sampling.temperature)
        for token in ranked
    }
    total, mass, kept = sum(weight.values()), 0.0, []
    for token in ranked:
        # Rounding may make a sum smaller than the top_p that it equals.
        if mass < sampling.top_p * (1 - 1e-14):
            kept.append(token)
        mass += weight[token] / total
    total = sum(weight[token] for token in kept)
    return [weight[token] / total if token in kept else 0.0 for token in range(len(logits))]


@given(LOGITS, st.sampled_from([0.0, -700.0, 700.0]))
def test_softmax_is_exponentials_over_their_sum_for_any_shift(own, scores, shift):
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        own(softmax)(scores + shift), expected, rtol=1e-12
    )  # adding the shift has a rounding error of 1e-13


def test_softmax_is_float64_and_0_for_a_score_of_minus_infinity(own):
    probabilities = own(softmax)(np.array([[0.0, -np.inf, 0.0]], np.float32))
    assert probabilities.dtype == np.float64, f"expected float64, got {probabilities.dtype}"
    np.testing.assert_array_equal(probabilities, [[0.5, 0.0, 0.5]])


def test_softmax_of_rows_of_very_different_sizes_neither_overflows_nor_loses_a_row(own):
    scores = np.array([[0.0, 0.0, -9000.0], [8000.0, -9000.0, 8000.0], [-8000.0, -8000.0, -9000.0]])
    with np.errstate(over="raise", invalid="raise"):  # exp(800) overflows
        probabilities = own(softmax)(scores)
    np.testing.assert_array_equal(probabilities, [[0.5, 0.5, 0], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def test_softmax_of_float32_scores_sums_in_float64_and_leaves_the_scores_unchanged(own):
    scores = np.random.default_rng(0).standard_normal((20, 1000), dtype=np.float32)
    before = scores.copy()
    sums = own(softmax)(scores).sum(axis=-1)
    np.testing.assert_allclose(sums, 1, rtol=0, atol=1e-14)  # sums in float32 are off by 1e-7
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("row", [[np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_softmax_of_a_row_whose_maximum_is_not_finite_raises_an_error(own, row):
    with np.errstate(invalid="ignore"), pytest.raises(UserError):
        own(softmax)(np.array([[0.0, 1.0], row]))


@given(LOGITS, PROPERTIES)
def test_probabilities_apply_temperature_top_k_and_top_p_with_ties_to_the_lowest_id(
    logits, sampling
):
    expected = np.array([probabilities_by_definition(row, sampling) for row in logits])
    np.testing.assert_allclose(sampling.probabilities(logits), expected, atol=1e-14)


@given(LOGITS, PROPERTIES)
def test_probabilities_are_float64_sum_to_one_and_leave_the_logits_unchanged(logits, sampling):
    logits = logits.astype(np.float32)
    before = logits.copy()
    probabilities = sampling.probabilities(logits)
    assert probabilities.dtype == np.float64 and probabilities.shape == logits.shape
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-14)
    np.testing.assert_array_equal(logits, before)


@given(LOGITS, PROPERTIES)
def test_a_rows_probabilities_do_not_depend_on_other_rows(logits, sampling):
    alone = np.concatenate([sampling.probabilities(row[None]) for row in logits])
    np.testing.assert_array_equal(sampling.probabilities(logits), alone)


@given(LOGITS, st.integers(0, 8), st.sampled_from([1.0, 0.95, 0.6, 0.1]))
def test_top_k_and_top_p_keep_scores_as_they_are_and_give_the_others_minus_infinity(
    own, scores, top_k, top_p
):
    before, sampling = scores.copy(), SamplingParams(1.0, top_k, top_p)
    found = own(truncate)(scores, top_k, top_p)
    kept = np.array([probabilities_by_definition(row, sampling) for row in scores]) > 0
    np.testing.assert_array_equal(found, np.where(kept, before, -np.inf))
    np.testing.assert_array_equal(scores, before, "truncate changed its argument")


@given(LOGITS, st.integers(0, 8), st.sampled_from([1.0, 0.95, 0.6, 0.1]))
def test_what_top_k_and_top_p_keep_of_a_row_does_not_depend_on_other_rows(
    own, scores, top_k, top_p
):
    alone = np.concatenate([own(truncate)(row[None], top_k, top_p) for row in scores])
    np.testing.assert_array_equal(own(truncate)(scores, top_k, top_p), alone)


def test_top_k_comes_before_top_p_and_renormalizes_first(own):
    scores = np.log([[0.4, 0.3, 0.2, 0.1]])
    # Top-k keeps two tokens. The first has 0.4 / 0.7 = 0.57 of their probability, less than 0.6, so
    # top-p keeps both. Without renormalizing, or with top-p first, three tokens would remain.
    kept = np.isfinite(own(truncate)(scores, 2, 0.6))
    np.testing.assert_array_equal(kept, [[True, True, False, False]])
    kept = np.isfinite(own(truncate)(scores, 2, 0.5))
    np.testing.assert_array_equal(kept, [[True, False, False, False]])


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_top_p_keeps_no_token_after_the_one_that_reaches_it(own, top_p, kept):
    found = own(truncate)(np.zeros((1, 4)), 0, top_p)
    np.testing.assert_array_equal(found, [[0.0] * kept + [-np.inf] * (4 - kept)])


def test_top_k_and_top_p_keep_the_lower_ids_of_equal_scores(own):
    scores = np.array([[1.0, 2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 5.0]])
    for top_k, top_p, kept in (
        (2, 1.0, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (4, 1.0, [[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]),
        (0, 0.5, [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]),
    ):
        found = own(truncate)(scores, top_k, top_p)
        np.testing.assert_array_equal(np.isfinite(found), np.array(kept, bool))


@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_a_small_temperature_approaches_greedy_without_overflow(temperature):
    logits = np.array([[1.0, 3.0, -2.0], [0.0, -1.0, -500.0]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(
            SamplingParams(temperature=temperature).probabilities(logits),
            GREEDY.probabilities(logits),
        )


@given(LOGITS, PROPERTIES)
def test_probabilities_of_float32_logits_equal_those_of_float64_within_rounding(logits, sampling):
    np.testing.assert_allclose(
        sampling.probabilities(logits.astype(np.float32)),
        sampling.probabilities(logits),
        rtol=2e-5,
        atol=1e-12,
    )


def test_a_masked_logit_has_probability_0_and_huge_logits_do_not_overflow():
    probabilities = SamplingParams().probabilities(
        np.array([[-np.inf, 1e30, 1e30], [0.0, -np.inf, -1e30]], np.float32)
    )
    np.testing.assert_array_equal(probabilities, [[0, 0.5, 0.5], [1, 0, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=2, top_p=0.5),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_logits_that_are_not_finite_raise_an_error(sampling, place, bad):
    """Sorting puts a NaN last, so top-k and top-p would hide it."""
    logits = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    logits[1, place] = bad
    with pytest.raises(UserError, match="not a number"):
        sampling.probabilities(logits)


def test_a_row_of_minus_infinity_raises_an_error():
    with pytest.raises(UserError, match="not a number"):
        SamplingParams().probabilities(np.full((1, 3), -np.inf))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be"),
        ({"temperature": 1e-7}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"temperature": math.inf}, "temperature must be"),
        ({"temperature": "hot"}, "temperature must be"),
        ({"temperature": True}, "temperature must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": 2.0}, "top_k must be"),
        ({"top_p": 0}, "top_p must be"),
        ({"top_p": 1.01}, "top_p must be"),
        ({"top_p": math.nan}, "top_p must be"),
    ],
)
def test_a_setting_out_of_range_raises_a_one_line_error(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        SamplingParams(**settings)
    assert "\n" not in str(caught.value)


def within_chance(counts, p):
    """Return whether chi-square of the counts is below its mean plus five standard deviations."""
    expected = counts.sum() * p
    return (((counts - expected) ** 2 / expected).sum() - (len(p) - 1)) / math.sqrt(
        2 * (len(p) - 1)
    ) < 5


def test_choose_samples_tokens_with_their_probabilities_and_never_one_with_0():
    rng, p = SeededRandomSource(1), np.array([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    counts = np.bincount([rng.choose(p) for _ in range(20_000)], minlength=6)
    assert not counts[p == 0].any() and within_chance(counts[p > 0], p[p > 0])


def test_sample_samples_tokens_with_the_softmax_of_the_scores():
    rng, p = SeededRandomSource(1), np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        scores = (
            np.log(np.array([p, p[::-1]])) + 3
        )  # scores may differ from logarithms by a constant
    tokens = np.concatenate([rng.sample(scores) for _ in range(10_000)]).reshape(-1, 2)
    for column, expected in ((tokens[:, 0], p), (tokens[:, 1], p[::-1])):
        counts = np.bincount(column, minlength=4)
        assert not counts[expected == 0].any() and within_chance(
            counts[expected > 0], expected[expected > 0]
        )
    pairs = np.bincount(4 * tokens[:, 0] + tokens[:, 1], minlength=16)
    expected = np.outer(p, p[::-1]).ravel()
    assert within_chance(pairs[expected > 0], expected[expected > 0])


def test_sample_distinct_samples_without_replacement():
    rng, p = SeededRandomSource(1), np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        scores = np.log(p) + 3
    pairs = np.array([rng.sample_distinct(scores, 2) for _ in range(10_000)])
    counts = np.bincount(4 * pairs[:, 0] + pairs[:, 1], minlength=16).reshape(4, 4)
    expected = np.array(
        [[0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(4)] for i in range(4)]
    )
    assert not counts[expected == 0].any() and within_chance(
        counts[expected > 0], expected[expected > 0]
    )
    assert {tuple(sorted(rng.sample_distinct(scores, 4))) for _ in range(20)} == {(0, 2, 3)}


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("scale", [1.0, 1 + 2**-52, 0.1, 3.0])
def test_choose_returns_a_possible_token_at_both_ends_of_the_unit_interval(uniform, scale):
    rng = SeededRandomSource(0)
    rng._random = lambda: uniform
    p = scale * np.array([0.0, 0.25, 0.75, 0.0])
    assert rng.choose(p) in (1, 2)


def test_shared_noise_samples_from_p_independently_at_neighbouring_positions():
    noise, p = GumbelNoise(seed=3, vocabulary_size=3), np.array([0.5, 0.2, 0.3])
    tokens = (np.log(p) + noise.rows(0, 40_000)).argmax(axis=-1)
    assert within_chance(np.bincount(tokens), p)
    pairs = np.bincount(3 * tokens[:-1:2] + tokens[1::2], minlength=9)
    assert within_chance(pairs, np.outer(p, p).ravel())


@given(
    st.integers(0, 2**64 - 1),
    # Blocks of 64, 20, 6, 3 and 1 positions. A window of 64 is no multiple of some of them.
    st.sampled_from([3, *(BLOCK_NUMBERS // n for n in (20, 6, 3)), BLOCK_NUMBERS + 1]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 130)), min_size=1, max_size=5),
)
@settings(max_examples=30)
def test_the_noise_at_a_position_does_not_depend_on_earlier_calls(seed, vocabulary_size, calls):
    noise = GumbelNoise(seed, vocabulary_size)
    if vocabulary_size > 3:  # long rows: a few
        calls = [(position % 90, 1 + count % 9) for position, count in calls]
    results = [noise.rows(position, count) for position, count in calls]
    for (position, count), result in zip(calls, results, strict=True):
        assert result.shape == (count, vocabulary_size)
        fresh = [
            GumbelNoise(seed, vocabulary_size).rows(position + offset, 1)
            for offset in (0, count - 1)
        ]
        np.testing.assert_array_equal(result[[0, -1]], np.concatenate(fresh))


@pytest.mark.parametrize("block", [1, 3, 6, 7, 20, 64])
def test_noise_reaches_the_end_of_its_window_with_blocks_of_any_size(block):
    """A window of 64 positions is no whole number of blocks of 3, 6, 7 or 20."""
    noise = GumbelNoise(0, BLOCK_NUMBERS // block)
    for position in range(0, 100, 2):
        assert noise.rows(position, 4).shape == (4, BLOCK_NUMBERS // block)


def test_long_rows_of_noise_are_generated_once_and_one_by_one(monkeypatch):
    """A window of 25 MB that is filled ahead, or again and again, takes longer than a pass."""
    noise, generated = GumbelNoise(5, 49_152), []
    generate = noise._generate

    def watched(number, out):
        generated.append(number)
        return generate(number, out)

    monkeypatch.setattr(noise, "_generate", watched)
    for position in range(40):
        noise.rows(position, 8)  # for drafts
        noise.rows(position, 9)  # to verify them
    assert generated == list(range(48))


def test_noise_is_finite_if_the_generator_returns_0(monkeypatch):
    class Zeros:
        def standard_exponential(self, shape, out):
            out[:] = 0
            return out

    monkeypatch.setattr(np.random, "Generator", lambda bits: Zeros())
    assert np.isfinite(GumbelNoise(0, 3).rows(0, 2)).all()


def test_noise_differs_between_seeds_and_between_positions():
    first, second = GumbelNoise(1, 4).rows(0, 200), GumbelNoise(2, 4).rows(0, 200)
    assert not np.isclose(first, second).any()
    assert len(np.unique(first)) == first.size
