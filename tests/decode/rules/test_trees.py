"""Rules for trees are proved exact by enumerating every outcome. rule_mutants/ has wrong rules."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimtp.decode.drafters.acceptance import FIRST_SAMPLE, SHARPNESS, estimated_acceptance
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.rules.block import BlockRule, block_rule, traversal
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.matching import matching_path
from minimtp.decode.rules.rule import Coupling
from minimtp.decode.rules.shared_noise import SharedNoise
from minimtp.decode.rules.token import TokenRule, recursive_rejection, token_rule
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.decode.sampling.random_source import SeededRandomSource
from tests.decode.rules.rule_properties import (
    PAIRS,
    chain_round,
    distance_to_target,
    distinct_drafts,
    mean_accepted,
    most_probable,
    text_distribution,
    tree_round,
)
from tests.helpers.strategies import tree_forms

EXACT = 1e-12  # as in test_chains.py
RULES = pytest.mark.parametrize(
    "rule", [recursive_rejection, traversal], ids=lambda rule: rule.__name__
)
FORMS = pytest.mark.parametrize(
    "form", [[0, 1, 1, 1], [0, 1, 2, 1], [0, 1, 1, 2, 3], [0, 1, 2, 3, 1]], ids=str
)


@functools.cache
def sampled_round(rule, name, form):
    """Return `tree_round` of a pair, the same function for the same arguments. form: a tuple."""
    return tree_round(rule, *PAIRS[name], form)


def sample_and_match(p, q, tree, rng):
    return matching_path(lambda row: rng.choose(p[row]), tree)


@RULES
@FORMS
def test_a_rule_keeps_the_targets_distribution_if_children_are_sampled_from_q(form, rule):
    for name, (p, _) in PAIRS.items():
        one_round = sampled_round(rule, name, tuple(form))
        assert distance_to_target(one_round, p) <= EXACT, name


@pytest.mark.slow
@RULES
@pytest.mark.parametrize(
    "form", [[0, 1, 2, 2, 1, 2], [0, 1, 2, 3, 3, 1], [0, 1, 2, 3, 1, 2]], ids=str
)
def test_a_rule_keeps_the_targets_distribution_in_larger_trees(form, rule):
    for name in ("random-0", "random-4", "random-6", "support-smaller-than-the-tree-is-wide"):
        p, q = PAIRS[name]
        assert distance_to_target(tree_round(rule, p, q, form), p) <= EXACT, name


@FORMS
def test_matching_keeps_the_targets_distribution_if_children_are_not_sampled(form):
    for name, (p, q) in PAIRS.items():
        assert (
            distance_to_target(tree_round(sample_and_match, p, q, form, most_probable), p) <= EXACT
        ), name


@RULES
def test_the_shape_of_a_tree_may_depend_on_the_tokens_sampled_before(rule):
    """Here the sibling of a token decides whether the token has a second child."""
    for name in (f"random-{index}" for index in range(8)):
        p, q = PAIRS[name]

        def one_round(rng, p=p, q=q):
            first = distinct_drafts(rng, q[()], 2)
            form = [0, 1, 1, 2, 2] if first[1:] and first[0] < first[1] else [0, 1, 2, 1]
            known = iter([first])

            def sample(rng, q, count):
                return next(known, None) or distinct_drafts(rng, q, count)

            return tree_round(rule, p, q, form, sample)(rng)

        assert distance_to_target(one_round, p) <= EXACT, name


@FORMS
def test_a_tree_accepts_at_least_as_much_as_its_chain_and_traversal_as_rejection(form):
    depth = next((row - 1 for row, depth in enumerate(form) if row != depth), len(form) - 1)
    for name, (p, q) in itertools.islice(PAIRS.items(), 20):
        token, block = (
            mean_accepted(chain_round(rule, p, q, depth=depth)) for rule in (token_rule, block_rule)
        )
        rejection, whole_paths = (
            mean_accepted(sampled_round(rule, name, tuple(form)))
            for rule in (recursive_rejection, traversal)
        )
        assert rejection >= token - EXACT and whole_paths >= block - EXACT, name
        assert whole_paths >= rejection - EXACT, name


@pytest.mark.parametrize(
    ("rule", "chain_rule"), [(recursive_rejection, token_rule), (traversal, block_rule)]
)
@pytest.mark.parametrize("name", [f"random-{index}" for index in range(4)])
def test_a_rule_for_trees_on_a_chain_accepts_like_the_rule_for_chains(name, rule, chain_rule):
    p, q = PAIRS[name]
    in_a_tree, in_a_chain = tree_round(rule, p, q, [0, 1, 2, 3]), chain_round(chain_rule, p, q)
    assert mean_accepted(in_a_tree) == pytest.approx(mean_accepted(in_a_chain), abs=EXACT)


@RULES
def test_a_child_with_probability_0_under_q_raises_an_error(rule):
    p, q = PAIRS["disjoint"]
    with pytest.raises(
        ValueError,
        match="token 0 was drafted, but its declared draft distribution gives it probability 0",
    ):
        text_distribution(tree_round(rule, p, q, [0, 1, 1], lambda rng, q, count: [0, 1]), p)


@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(), SamplingParams(temperature=0.7, top_k=2), SamplingParams(top_p=0.7)],
    ids=["plain", "top-k", "top-p"],
)
def test_a_rule_samples_children_and_verifies_trees_with_truncated_distributions(sampling, kind):
    random = np.random.default_rng(2)
    logits = {prefix: random.standard_normal(3) for prefix in PAIRS["random-0"][0]}
    draft_logits = {prefix: random.standard_normal(3) for prefix in logits}

    def one_round(rng):
        rule = kind(sampling, rng)
        tree = grow(
            0, lambda node, parent, path: draft_logits[tuple(path)][None], rule, nodes=4, depth=2
        )
        texts = [
            tuple(tree.tokens[row] for row in tree.path_to(row)) for row in range(len(tree.tokens))
        ]
        path, token = rule.verify_tree(np.array([logits[text] for text in texts]), tree)
        return (*(tree.tokens[row] for row in path), token), len(path)

    p = {prefix: sampling.probabilities(row[None])[0] for prefix, row in logits.items()}
    assert distance_to_target(one_round, p) <= EXACT


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_acceptance_estimates_of_samples_do_not_depend_on_the_sampled_tokens(seed, width):
    logits = np.random.default_rng(seed).standard_normal((1, 5))
    sampled = [
        TokenRule(SamplingParams(), SeededRandomSource(other)).sample_children(logits, [], width)
        for other in range(8)
    ]
    assume(len({tuple(children.tokens) for children in sampled}) > 1)
    estimates = [
        estimated_acceptance(children, Coupling.REJECTION_SAMPLING) for children in sampled
    ]
    estimate_of_first = estimates[0]
    assert all(estimate == estimate_of_first for estimate in estimates)
    assert (
        sorted(estimate_of_first, reverse=True) == estimate_of_first
        and 0 < sum(estimate_of_first) <= 1 + 1e-12
        and estimate_of_first[0] >= FIRST_SAMPLE
    )


def test_a_sampled_tree_is_a_chain_if_the_drafter_is_certain_and_broad_if_it_is_not():
    sure, unsure = np.array([[20.0, 0.0, 0.0]]), np.zeros((1, 3))

    def depths(logits):
        return grow(
            0,
            lambda node, parent, path: logits,
            TokenRule(SamplingParams(), SeededRandomSource(0)),
            nodes=7,
            depth=7,
        ).depths

    assert depths(sure) == list(range(8))
    assert max(depths(unsure)) < 7


@given(tree_forms(), st.integers(0, 10**6))
def test_a_tree_finds_parents_and_children_from_the_depths(form, seed):
    tree = Tree(list(range(len(form))), form)
    assert len(tree) == len(form) - 1 and tree.parents[0] == -1
    for row in range(1, len(form)):
        parent = tree.parents[row]
        assert form[parent] == form[row] - 1 and parent < row and row in tree.children[parent]
        assert all(form[between] >= form[row] for between in range(parent + 1, row))


@pytest.mark.parametrize("depths", [[1], [0, 0], [0, 2], [0, 1, 3], [0, 1, 0], [0, -1]], ids=str)
def test_depths_that_are_not_a_depth_first_walk_raise_an_error(depths):
    with pytest.raises(ValueError, match="depth-first walk"):
        Tree([0] * len(depths), depths)


def test_greedy_verification_follows_the_argmax_and_emits_the_first_argmax_that_is_not_a_child():
    tree = Tree([9, 1, 2, 3, 4], [0, 1, 2, 2, 1])
    logits = np.eye(5, dtype=np.float32)[[1, 3, 0, 4, 2]]
    assert Greedy().verify_tree(logits, tree) == ([1, 3], 4)
    assert Greedy().verify_tree(logits[[4, 1, 2, 3, 0]], tree) == ([], 2)


def test_greedy_children_have_the_highest_finite_scores_and_ties_go_to_the_lowest_id():
    children = Greedy().sample_children(np.array([[1.0, 3.0, 3.0, 2.0]]), [], 3)
    assert children.tokens == [1, 2, 3]
    shares = np.exp(SHARPNESS[Coupling.SAME_ARGMAX] * np.array([3.0, 3.0, 2.0, 1.0]))
    estimates = estimated_acceptance(children, Greedy.coupling)
    assert estimates == pytest.approx((shares / shares.sum()).tolist()[:3])
    assert Greedy().sample_children(np.array([[0.0, -np.inf, -np.inf, 1.0]]), [], 4).tokens == [
        3,
        0,
    ]


def sharpened(distributions):
    """Return the greedy acceptance estimates: the drafter's probabilities ** SHARPNESS."""
    powers = {prefix: p ** SHARPNESS[Coupling.SAME_ARGMAX] for prefix, p in distributions.items()}
    return {prefix: power / power.sum() for prefix, power in powers.items()}


def brute_force_tree(distributions, nodes, depth):
    """Sum the probabilities of the `nodes` most probable paths of at most `depth` tokens."""
    paths = [
        text
        for length in range(1, depth + 1)
        for text in itertools.product(range(3), repeat=length)
    ]
    probabilities = [
        np.prod([distributions[text[:index]][token] for index, token in enumerate(text)])
        for text in paths
    ]
    return sum(sorted(probabilities, reverse=True)[:nodes])


@given(
    st.sampled_from(list(PAIRS)),
    st.integers(0, 12),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 0.3]),
)
def test_a_greedy_tree_holds_the_most_probable_paths_of_the_drafter(name, nodes, depth, least):
    """If the estimates are right, no tree or chain with as many drafts accepts more."""
    distributions = PAIRS[name][1]
    assume(len(distributions[()]) == 3)
    asked, estimates = [], sharpened(distributions)

    def follow(node, parent, path):
        asked.append(node)
        assert (parent == -1) == (node == 0) == (not path) and (parent == -1 or parent in asked)
        with np.errstate(divide="ignore"):
            return np.log(distributions[tuple(path)])[None]

    tree = grow(7, follow, Greedy(), nodes, depth, least)
    assert (
        tree.tokens[0] == 7
        and len(tree) <= nodes
        and max(tree.depths) <= depth
        and len(asked) == len(set(asked))
    )
    texts = [
        tuple(tree.tokens[row] for row in tree.path_to(row)) for row in range(1, len(tree.tokens))
    ]
    assert len(set(texts)) == len(texts)
    probabilities = [
        np.prod([estimates[text[:index]][token] for index, token in enumerate(text)])
        for text in texts
    ]
    assert all(probability >= least * (1 - 1e-12) for probability in probabilities)
    if least == 0:
        assert sum(probabilities) == pytest.approx(
            brute_force_tree(estimates, nodes, depth), abs=1e-12
        )


@given(tree_forms(), st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 1.3]))
def test_a_tree_with_shared_noise_emits_the_tokens_of_plain_decoding(form, seed, temperature):
    random, sampling, start = np.random.default_rng(seed), SamplingParams(temperature), 5
    plan = Tree([0] * len(form), form)
    logits = {}  # by the text so far

    def of(text):
        return logits.setdefault(text, random.standard_normal(4))

    rule, texts = SharedNoise(sampling, GumbelNoise(seed, 4), start), {0: ()}
    for row, children in enumerate(plan.children):
        if row in texts and children:
            drafted = of(texts[row]) + 0.5 * random.standard_normal(4)
            tokens = rule.sample_children(drafted[None], texts[row], len(children)).tokens
            assert len(set(tokens)) == len(tokens)
            assert tokens[0] == rule.sample(drafted[None], form[row])[0][0]
            texts |= {
                child: (*texts[row], token) for child, token in zip(children, tokens, strict=False)
            }
    rows = sorted(texts)
    tree = Tree([texts[row][-1] if row else 0 for row in rows], [form[row] for row in rows])
    path, token = rule.verify_tree(np.array([of(texts[row]) for row in rows]), tree)
    emitted = [*(tree.tokens[row] for row in path), token]
    assert rule.position == start + len(emitted)

    plain, text = SharedNoise(sampling, GumbelNoise(seed, 4), start), ()
    for expected in emitted:
        assert plain.verify(of(text)[None], [], None) == (0, expected)
        text += (expected,)
