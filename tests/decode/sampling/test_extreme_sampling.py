"""Sampling with all allowed temperatures and penalties, and all logits: no floating-point warning,
and a token of the vocabulary, or the error that the model's output is not a number.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.logits_processors import ProcessedRule, RepetitionPenalty
from minimtp.decode.rules.registry import RULES, make_rule
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import UserError

MAX_LOGIT = 1e25  # of the docstring of SamplingParams
STRICT = dict(over="raise", divide="raise", invalid="raise", under="ignore")

samplings = st.builds(
    SamplingParams,
    st.sampled_from([0.0, 1e-6, 1e-3, 0.7, 1.0, 3.0, 1e3, 1e6]),
    st.sampled_from([0, 1, 2, 3, 2**70]),
    st.sampled_from([1.0, 0.9, 0.1, 1e-12, 1e-300, np.nextafter(1.0, 0.0)]),
)
penalties = st.sampled_from([1.0, 1e-3, 0.5, 1.3, 1e3])
KINDS = ["usual", "one magnitude", "all magnitudes", "constant", "half excluded", "not finite"]


def random_logits(rng, rows, vocabulary, kind, limit=MAX_LOGIT):
    normal, largest = rng.standard_normal((rows, vocabulary)), np.log10(limit)
    logits = {
        "usual": normal,
        "one magnitude": normal * 10.0 ** rng.uniform(-45, largest - 1),
        "all magnitudes": normal * 10.0 ** rng.uniform(-45, largest - 1, normal.shape),
        "constant": np.full(normal.shape, rng.choice([-1, 1]) * 10.0 ** rng.uniform(-45, largest)),
        "half excluded": np.where(rng.random(normal.shape) < 0.5, -np.inf, normal),
        "not finite": np.where(
            rng.random(normal.shape) < 0.2, rng.choice([np.inf, -np.inf, np.nan]), normal
        ),
    }[kind]
    return logits.astype(np.float32)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=150)
@given(
    sampling=samplings, penalty=penalties, seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS),
    vocabulary=st.sampled_from([2, 5, 40]), depth=st.integers(0, 3), tree=st.booleans(),
)  # fmt: skip
def test_any_logits_give_a_token_or_the_error_that_the_output_is_not_a_number(
    name, sampling, penalty, seed, kind, vocabulary, depth, tree
):
    rng = np.random.default_rng(seed)
    rule = make_rule(name, sampling, seed, vocabulary, 2)
    if penalty != 1:
        rule = ProcessedRule(rule, [RepetitionPenalty(penalty)], np.array([0, 1]), 40)
    with np.errstate(**STRICT):
        try:
            if tree:
                usual = random_logits(rng, 1, vocabulary, "one magnitude")
                drafts = grow(0, lambda *node: usual, rule, 4, max(depth, 1))
                logits = random_logits(rng, len(drafts.tokens), vocabulary, kind)
                token = rule.verify_tree(logits, drafts)[1]
            else:
                sampled = [
                    rule.sample(random_logits(rng, 1, vocabulary, "one magnitude"), index)
                    for index in range(depth)
                ]
                tokens = [int(tokens[0]) for tokens, _ in sampled]
                scores = [scores for _, scores in sampled]
                scores = np.concatenate(scores) if scores and scores[0] is not None else None
                logits = random_logits(rng, depth + 1, vocabulary, kind)
                token = rule.verify(logits, tokens, scores)[1]
        except UserError as error:
            assert "not a number" in str(error)
            assert kind in ("half excluded", "not finite") and not np.isfinite(logits).all()
            return
    assert 0 <= token < vocabulary


@settings(max_examples=100)
@given(sampling=samplings, seed=st.integers(0, 2**32), exponent=st.integers(25, 38))
def test_logits_that_overflow_are_never_sampled_as_another_token(sampling, seed, exponent):
    """Beyond the documented range: the right token or an error, a warning of NumPy apart."""
    logits = np.zeros((1, 5), np.float32)
    logits[0, :2] = np.array([1.0, 3.0]) * 10.0**exponent  # the second token is certain
    sampling = SamplingParams(min(sampling.temperature, 1.0), sampling.top_k, sampling.top_p)
    for name in RULES:
        with np.errstate(all="ignore"):
            try:
                token = make_rule(name, sampling, seed, 5, 0).verify(logits, [], None)[1]
            except UserError:
                assert 3.0 * 10.0**exponent / sampling.temperature > np.finfo(np.float32).max
                continue
        assert token == 1
