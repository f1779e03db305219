"""Laws against their definitions, and the randomness that draws from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minimtp.decode.sampling import GREEDY, GumbelNoise, SamplingParams, SeededRandomSource, softmax
from minimtp.errors import UserError

# Quarters, so that ties are common and exact.
LOGITS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 7)), elements=st.integers(-12, 12)
).map(lambda array: array / 4)
PROPERTIES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.integers(0, 8),
    top_p=st.sampled_from([1.0, 0.95, 0.6, 0.1]),
)


def law_by_definition(logits, law):
    """One row, a token at a time, straight from the docstring of sampling.py."""
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if law.temperature == 0:
        return [float(token == ranked[0]) for token in range(len(logits))]
    if law.top_k:
        ranked = ranked[: law.top_k]
    weight = {
        token: math.exp((logits[token] - logits[ranked[0]]) / law.temperature) for token in ranked
    }
    total, mass, kept = sum(weight.values()), 0.0, []
    for token in ranked:
        if mass < law.top_p * (1 - 1e-14):  # a sum of floats may fall short of the top_p it equals
            kept.append(token)
        mass += weight[token] / total
    total = sum(weight[token] for token in kept)
    return [weight[token] / total if token in kept else 0.0 for token in range(len(logits))]


@given(LOGITS, st.sampled_from([0.0, -700.0, 700.0]))
def test_a_softmax_is_exponentials_over_their_sum_wherever_the_scores_lie(own, scores, shift):
    expected = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        own(softmax)(scores + shift), expected, rtol=1e-12
    )  # the shift itself rounds to 1e-13


def test_a_softmax_is_float64_and_gives_nothing_to_a_score_of_minus_infinity(own):
    probabilities = own(softmax)(np.array([[0.0, -np.inf, 0.0]], np.float32))
    assert probabilities.dtype == np.float64, f"expected float64, got {probabilities.dtype}"
    np.testing.assert_array_equal(probabilities, [[0.5, 0.0, 0.5]])


@given(LOGITS, PROPERTIES)
def test_a_law_is_temperature_then_top_k_then_top_p_with_ties_to_the_lowest_id(own, logits, law):
    law = own(SamplingParams)(**vars(law))
    expected = np.array([law_by_definition(row, law) for row in logits])
    np.testing.assert_allclose(law.probabilities(logits), expected, atol=1e-14)


@given(LOGITS, PROPERTIES)
def test_a_law_sums_to_one_is_float64_and_leaves_the_logits_alone(own, logits, law):
    law = own(SamplingParams)(**vars(law))
    logits = logits.astype(np.float32)
    before = logits.copy()
    probabilities = law.probabilities(logits)
    assert probabilities.dtype == np.float64 and probabilities.shape == logits.shape
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-14)
    np.testing.assert_array_equal(logits, before)


@given(LOGITS, PROPERTIES)
def test_the_rows_of_a_law_do_not_depend_on_one_another(own, logits, law):
    law = own(SamplingParams)(**vars(law))
    alone = np.concatenate([law.probabilities(row[None]) for row in logits])
    np.testing.assert_array_equal(law.probabilities(logits), alone)


def test_top_k_comes_before_top_p_and_is_renormalised_in_between(own):
    logits = np.log([[0.4, 0.3, 0.2, 0.1]])
    # Of the two that top-k keeps, 0.4 / 0.7 = 0.57 is not yet 0.6. Without renormalising, or with top-p first, three survive.
    np.testing.assert_allclose(
        own(SamplingParams)(top_k=2, top_p=0.6).probabilities(logits),
        [[4 / 7, 3 / 7, 0, 0]],
        atol=1e-15,
    )
    np.testing.assert_allclose(
        own(SamplingParams)(top_k=2, top_p=0.5).probabilities(logits), [[1, 0, 0, 0]], atol=1e-15
    )


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_top_p_keeps_no_token_beyond_the_one_that_reaches_it(own, top_p, kept):
    probabilities = own(SamplingParams)(top_p=top_p).probabilities(np.zeros((1, 4)))
    np.testing.assert_array_equal(probabilities, [[1 / kept] * kept + [0] * (4 - kept)])


@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_a_small_temperature_approaches_greedy_without_overflow(temperature):
    logits = np.array([[1.0, 3.0, -2.0], [0.0, -1.0, -500.0]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(
            SamplingParams(temperature=temperature).probabilities(logits),
            GREEDY.probabilities(logits),
        )


@given(LOGITS, PROPERTIES)
def test_the_law_of_float32_logits_is_that_of_float64_up_to_their_precision(logits, law):
    np.testing.assert_allclose(
        law.probabilities(logits.astype(np.float32)),
        law.probabilities(logits),
        rtol=2e-5,
        atol=1e-12,
    )


def test_a_masked_logit_is_never_drawn_and_huge_logits_do_not_overflow():
    probabilities = SamplingParams().probabilities(
        np.array([[-np.inf, 1e30, 1e30], [0.0, -np.inf, -1e30]], np.float32)
    )
    np.testing.assert_array_equal(probabilities, [[0, 0.5, 0.5], [1, 0, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "law",
    [
        GREEDY,
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.5),
        SamplingParams(top_k=2, top_p=0.5),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_logits_that_are_no_numbers_are_refused(law, place, bad):
    """A NaN is smaller than any number where it is sorted, so what keeps the largest would hide it."""
    logits = np.array([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
    logits[1, place] = bad
    with pytest.raises(UserError, match="not a number"):
        law.probabilities(logits)


def test_a_row_without_any_possible_token_is_refused():
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
        ({"top_k": -1}, "top-k must be"),
        ({"top_k": 2.0}, "top-k must be"),
        ({"top_p": 0}, "top-p must be"),
        ({"top_p": 1.01}, "top-p must be"),
        ({"top_p": math.nan}, "top-p must be"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence_to_the_user(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        SamplingParams(**settings)
    assert "\n" not in str(caught.value)


def within_chance(counts, law):
    """Chi-square below its mean plus five standard deviations, for counts drawn from the law."""
    expected = counts.sum() * law
    return (((counts - expected) ** 2 / expected).sum() - (len(law) - 1)) / math.sqrt(
        2 * (len(law) - 1)
    ) < 5


def test_dice_choose_tokens_with_the_laws_frequencies_and_never_one_without_mass():
    rng, law = SeededRandomSource(1), np.array([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    counts = np.bincount([rng.choose(law) for _ in range(20_000)], minlength=6)
    assert not counts[law == 0].any() and within_chance(counts[law > 0], law[law > 0])


def test_dice_draw_tokens_from_scores_with_the_laws_frequencies():
    rng, law = SeededRandomSource(1), np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        scores = np.log(np.array([law, law[::-1]])) + 3  # up to a constant
    tokens = np.concatenate([rng.sample(scores) for _ in range(10_000)]).reshape(-1, 2)
    for column, expected in ((tokens[:, 0], law), (tokens[:, 1], law[::-1])):
        counts = np.bincount(column, minlength=4)
        assert not counts[expected == 0].any() and within_chance(
            counts[expected > 0], expected[expected > 0]
        )
    pairs = np.bincount(4 * tokens[:, 0] + tokens[:, 1], minlength=16)
    expected = np.outer(law, law[::-1]).ravel()
    assert within_chance(pairs[expected > 0], expected[expected > 0])


def test_dice_draw_distinct_tokens_one_after_another_from_what_is_left_of_the_law():
    rng, law = SeededRandomSource(1), np.array([0.1, 0.0, 0.6, 0.3])
    with np.errstate(divide="ignore"):
        scores = np.log(law) + 3
    pairs = np.array([rng.sample_distinct(scores, 2) for _ in range(10_000)])
    counts = np.bincount(4 * pairs[:, 0] + pairs[:, 1], minlength=16).reshape(4, 4)
    expected = np.array(
        [[0 if i == j else law[i] * law[j] / (1 - law[i]) for j in range(4)] for i in range(4)]
    )
    assert not counts[expected == 0].any() and within_chance(
        counts[expected > 0], expected[expected > 0]
    )
    assert {tuple(sorted(rng.sample_distinct(scores, 4))) for _ in range(20)} == {(0, 2, 3)}


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("scale", [1.0, 1 + 2**-52, 0.1, 3.0])
def test_dice_stay_inside_the_law_at_the_ends_of_the_unit_interval(uniform, scale):
    rng = SeededRandomSource(0)
    rng._random = lambda: uniform
    law = scale * np.array([0.0, 0.25, 0.75, 0.0])
    assert rng.choose(law) in (1, 2)


def test_noise_draws_from_the_law_and_independently_at_neighbouring_positions():
    noise, law = GumbelNoise(seed=3, vocabulary_size=3), np.array([0.5, 0.2, 0.3])
    tokens = (np.log(law) + noise.rows(0, 40_000)).argmax(axis=-1)
    assert within_chance(np.bincount(tokens), law)
    pairs = np.bincount(3 * tokens[:-1:2] + tokens[1::2], minlength=9)
    assert within_chance(pairs, np.outer(law, law).ravel())


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(0, 500), st.integers(1, 130)), min_size=1, max_size=5),
)
def test_the_noise_of_a_position_does_not_depend_on_what_was_asked_before(seed, questions):
    noise = GumbelNoise(seed, 3)
    answers = [noise.rows(position, count) for position, count in questions]
    for (position, count), answer in zip(questions, answers, strict=True):
        assert answer.shape == (count, 3)
        fresh = [GumbelNoise(seed, 3).rows(position + offset, 1) for offset in (0, count - 1)]
        np.testing.assert_array_equal(answer[[0, -1]], np.concatenate(fresh))


def test_noise_stays_finite_where_the_generator_gives_an_exact_zero(monkeypatch):
    class Zeros:
        def standard_exponential(self, shape):
            return np.zeros(shape)

    monkeypatch.setattr(np.random, "Generator", lambda bits: Zeros())
    assert np.isfinite(GumbelNoise(0, 3).rows(0, 2)).all()


def test_noise_differs_between_seeds_and_between_positions():
    first, second = GumbelNoise(1, 4).rows(0, 200), GumbelNoise(2, 4).rows(0, 200)
    assert not np.isclose(first, second).any()
    assert len(np.unique(first)) == first.size
