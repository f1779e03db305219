"""Compiled verification of chains: exact, and the same as the readable rules."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.backend import numpy as np
from minimtp.decode.rules.block import BlockRule, block_rule
from minimtp.decode.rules.rule import VocabularyScores
from minimtp.decode.rules.token import TokenRule, token_rule
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import SeededRandomSource
from minimtp.kernels import plain
from tests.decode.rules.rule_properties import PAIRS, continuations, target_distribution
from tests.helpers.table_models import total_variation
from tests.kernels.both import cpu, each_kernel, needs_numba

EXACT = 1e-12  # as in test_chains.py
LAST = np.nextafter(1.0, 0.0)  # the largest point
RULES = (token_rule, block_rule)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


class GivenPoints:
    """A random source with these points. Rules that ask for decisions get them in the same order:
    one for each coin, and the last for the token.
    """

    def __init__(self, points):
        self.given, self.coins = np.array(points, np.float64), iter(points)

    def points(self, count):
        assert count == len(self.given)
        return self.given

    def happens(self, probability):
        return next(self.coins) < probability

    def choose(self, probabilities):
        cumulative = probabilities.cumsum()
        return int(np.searchsorted(cumulative, self.given[-1] * cumulative[-1], side="right"))


def shares_of(function):
    """Return {value: share of the points from 0 to 1} of a function of a point that has each of its
    values on one interval.
    """
    shares = {}

    def add(low, at_low, high, at_high):
        middle = (low + high) / 2
        if at_low == at_high or middle in (low, high):
            shares[at_low] = shares.get(at_low, 0.0) + high - low
            return
        value = function(middle)
        add(low, at_low, middle, value)
        add(middle, value, high, at_high)

    add(0.0, function(0.0), 1.0, function(LAST))
    return shares


def outcome_distribution(verify, depth):
    """Return {(accepted, token): probability} of verify(points (depth + 1,)).

    Every coin succeeds up to a point, which is found by bisection, with the other coins set so that
    this one decides. So nothing about the rule is assumed but that coins are independent.
    """
    chances = []
    for coin in range(depth):
        chance = 1.0
        for others in itertools.product((0.0, LAST), repeat=depth - 1):

            def accepted(point, coin=coin, others=others):
                return verify([*others[:coin], point, *others[coin:], 0.5])[0]

            if accepted(0.0) != accepted(LAST):
                chance = shares_of(accepted)[accepted(0.0)]
                break
        chances.append(chance)
    outcomes = {}
    for succeeds in itertools.product((True, False), repeat=depth):
        points = [0.0 if success else LAST for success in succeeds]
        pairs = zip(chances, succeeds, strict=True)
        probability = np.prod([chance if success else 1 - chance for chance, success in pairs])
        if probability > 0:
            for outcome, share in shares_of(lambda last, p=points: verify([*p, last])).items():
                outcomes[outcome] = outcomes.get(outcome, 0.0) + probability * share
    return outcomes


def kernels_distribution(scores):
    """Return the probabilities that the compiled code gives to float32 scores (V,), in float64."""
    from minimtp.kernels.cpu.sampling import softmax_weights

    weights = np.empty_like(scores)
    total = softmax_weights(scores, np.float32(1), weights)
    return weights.astype(np.float64) / total


def with_scores(distributions):
    """Return (float32 scores, the probabilities that compiled code gives to them) by prefix."""
    with np.errstate(divide="ignore"):
        scores = {x: np.log(row).astype(np.float32) for x, row in distributions.items()}
    return scores, {x: kernels_distribution(row) for x, row in scores.items()}


def text_distribution(rule, depth, p, p_scores, q, q_scores, tokens, sampled=True):
    """Return the exact distribution of the text after one round of a compiled rule.

    tokens: the draft vocabulary. sampled: drafts come from q; otherwise the first token of the
    vocabulary is drafted, without scores.
    """
    texts = {}
    ids = np.array(tokens)
    every = len(ids) == len(p[()])
    for drafts in itertools.product(range(len(ids)), repeat=depth):
        named = [int(ids[draft]) for draft in drafts]
        prefixes = [tuple(named[:index]) for index in range(depth + 1)]
        chance = np.prod([q[x][d] for x, d in zip(prefixes[:-1], drafts, strict=True)])
        if not sampled:
            chance = float(not any(drafts))
        if chance == 0:
            continue
        logits = np.array([p_scores[x] for x in prefixes])
        scores = np.array([q_scores[x] for x in prefixes[:-1]]) if sampled else None

        def verify(points, named=named, logits=logits, scores=scores):
            some = None if every or not sampled else ids
            return cpu.verify_chain(rule, logits, 1.0, named, scores, some, GivenPoints(points))

        for (accepted, token), probability in outcome_distribution(verify, depth).items():
            for text, share in continuations((*named[:accepted], token), p):
                texts[text] = texts.get(text, 0.0) + chance * probability * share
    return texts


NAMES = [
    *(f"random-{index}" for index in (0, 2, 4, 6)), "equal-0", "one-hot-target-0",
    "one-hot-draft-distribution-0", "target-with-zeros-0", "disjoint",
]  # fmt: skip


@needs_numba
@each_rule
@pytest.mark.parametrize(
    ("names", "depth"), [(PAIRS, 2), (NAMES, 3)], ids=["two drafts", "three drafts"]
)
def test_a_compiled_rule_keeps_the_targets_distribution(rule, names, depth):
    for name in names:
        (p_scores, p), (q_scores, q) = map(with_scores, PAIRS[name])
        vocabulary = range(len(p[()]))
        found = text_distribution(rule, depth, p, p_scores, q, q_scores, vocabulary)
        off = total_variation(found, target_distribution(p))
        assert off <= EXACT, f"{name}: the distribution of the text is off by {off:.2g}, expected 0"


@needs_numba
@each_rule
@pytest.mark.parametrize("name", ["random-1", "random-3"])
def test_a_compiled_rule_keeps_the_targets_distribution_with_a_draft_vocabulary(rule, name):
    p_scores, p = with_scores(PAIRS[name][0])
    tokens = [1, 3]
    q_scores, q = with_scores({x: row[tokens] + 0.01 for x, row in PAIRS[name][1].items()})
    found = text_distribution(rule, 2, p, p_scores, q, q_scores, tokens)
    assert total_variation(found, target_distribution(p)) <= EXACT


@needs_numba
@each_rule
@pytest.mark.parametrize("name", ["random-1", "one-hot-target-0", "target-with-zeros-0"])
def test_a_compiled_rule_keeps_the_targets_distribution_if_drafts_are_not_sampled(rule, name):
    p_scores, p = with_scores(PAIRS[name][0])
    q_scores, q = with_scores(PAIRS[name][1])
    found = text_distribution(rule, 2, p, p_scores, q, q_scores, range(len(p[()])), sampled=False)
    assert total_variation(found, target_distribution(p)) <= EXACT


@needs_numba
def test_the_search_for_jumps_finds_a_wrong_compiled_rule():
    """The proof above is able to fail: a compiled rule that ignores its scores is off."""
    p_scores, p = with_scores(PAIRS["random-0"][0])
    q_scores, q = with_scores(PAIRS["random-0"][1])
    for rule in RULES:
        wrong = {prefix: row[::-1].copy() for prefix, row in q_scores.items()}
        found = text_distribution(rule, 2, p, p_scores, q, wrong, range(3))
        assert total_variation(found, target_distribution(p)) > 0.01


@needs_numba
@given(seed=st.integers(0, 2**32), vocabulary=st.sampled_from([1, 3, 511, 513, 1100]))
@settings(max_examples=20)
def test_a_token_is_sampled_for_exactly_its_share_of_the_points(seed, vocabulary):
    """Drafts come from exactly the distribution with which they are verified."""
    scores = 4 * np.random.default_rng(seed).standard_normal(vocabulary).astype(np.float32)
    scores[1::3] = -np.inf
    ends = kernels_distribution(scores).cumsum()
    one = np.ones(2, np.float32)
    for token in np.random.default_rng(seed).permutation(vocabulary)[:20]:
        start = ends[token - 1] if token else 0.0
        if ends[token] - start > 4 * EXACT:
            inside = np.array([start + EXACT, min(ends[token] - EXACT, LAST)])
            assert cpu.sample(np.stack([scores] * 2), one, inside).tolist() == [token, token]


@needs_numba
@each_rule
@given(
    seed=st.integers(0, 2**32),
    depth=st.integers(0, 7),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    kind=st.sampled_from(["all tokens", "some tokens", "not sampled"]),
    closeness=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_a_compiled_rule_decides_as_the_readable_one(
    rule, seed, depth, temperature, kind, closeness
):
    rng, vocabulary = np.random.default_rng(seed), 600
    logits = (3 * rng.standard_normal((depth + 1, vocabulary))).astype(np.float32)
    logits[:, rng.random(vocabulary) < 0.1] = -np.inf
    tokens = np.arange(vocabulary)
    if kind == "some tokens":
        tokens = np.sort(rng.permutation(vocabulary)[:90])
    own = (logits[:-1, tokens] / np.float32(temperature)).astype(np.float32)
    own[own == -np.inf] = -20
    scores = own + closeness * rng.standard_normal(own.shape).astype(np.float32)
    chosen = plain.sample(scores, np.ones(depth, np.float32), rng.random(depth))
    drafts = tokens[chosen].tolist()
    if kind == "not sampled":
        drafts, scores = logits[:-1].argmax(axis=1).tolist(), None
    if kind != "some tokens":
        tokens = None
    points = rng.random(depth + 1)
    compiled, readable = (
        kernel.verify_chain(
            rule, logits, temperature, drafts, scores, tokens, GivenPoints(points)
        )
        for kernel in (cpu, plain)
    )  # fmt: skip
    assert compiled == readable


@each_kernel
@each_rule
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_logits_and_scores_that_are_not_finite_give_no_token(kernel, rule, bad):
    for wrong_row in (0, 1):
        logits, scores = np.zeros((2, 5), np.float32), np.zeros((1, 5), np.float32)
        logits[wrong_row, 3] = bad
        points = GivenPoints([0.0, 0.5])  # the draft is accepted, so the rule uses both rows
        assert kernel.verify_chain(rule, logits, 1.0, [0], scores, None, points)[1] == -1
    scores[0, 2] = bad
    points = GivenPoints([0.0, 0.5])
    good = np.zeros((2, 5), np.float32)
    assert kernel.verify_chain(rule, good, 1.0, [0], scores, None, points)[1] == -1
    logits = np.full((1, 5), -np.inf, np.float32)
    assert kernel.verify_chain(rule, logits, 1.0, [], None, None, GivenPoints([0.5]))[1] == -1


@each_kernel
@each_rule
@pytest.mark.parametrize("tokens", [None, [0, 2], [2, 3]], ids=str)
def test_a_draft_that_its_scores_exclude_raises_an_error(kernel, rule, tokens):
    scores = np.array([[0.0, 0, -np.inf, 0]], np.float32)
    if tokens is not None:
        tokens, scores = np.array(tokens), np.array([[0.0, 0]], np.float32)
    draft = 2 if tokens is None else 1  # of probability 0, or not in the draft vocabulary
    with pytest.raises(ValueError, match=f"token {draft} was drafted"):
        kernel.verify_chain(
            rule, np.zeros((2, 4), np.float32), 1.0, [draft], scores, tokens, GivenPoints([0, 0])
        )


@each_rule
def test_a_rule_of_your_own_runs_as_you_wrote_it(rule):
    """Only the library's own rules have compiled versions, not subclasses with other chains."""
    kind = {token_rule: TokenRule, block_rule: BlockRule}[rule]
    seen = SimpleNamespace(p=None)

    def chain(p, q, drafts, rng):
        seen.p, seen.q = p, q
        return 0, 2

    class Mine(kind):
        pass

    Mine.chain = staticmethod(chain)
    logits = np.zeros((2, 4), np.float32)
    scores = VocabularyScores(np.zeros((1, 2), np.float32), np.array([1, 3]))
    mine = Mine(SamplingParams(), SeededRandomSource(0))
    assert mine.verify(logits, [1], scores) == (0, 2)
    assert seen.p.tolist() == [[0.25] * 4] * 2 and seen.q.tolist() == [[0, 0.5, 0, 0.5]]
