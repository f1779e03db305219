"""Rules for chains are proved exact by enumerating every outcome. rule_mutants/ has wrong rules."""

import inspect
import itertools

import numpy as np
import pytest

from minimtp.decode.logits_processors import ProcessedRule
from minimtp.decode.rules.block import BlockRule, block_rule
from minimtp.decode.rules.greedy import Greedy
from minimtp.decode.rules.match import Match
from minimtp.decode.rules.matching import matching_rule
from minimtp.decode.rules.registry import RULES, make_rule
from minimtp.decode.rules.rule import Rule
from minimtp.decode.rules.shared_noise import SharedNoise
from minimtp.decode.rules.token import TokenRule, token_rule
from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.gumbel_noise import GumbelNoise
from minimtp.decode.sampling.params import SamplingParams
from minimtp.errors import UserError
from tests.decode.rules.rule_properties import (
    DEPTH,
    PAIRS,
    chain_round,
    distance_to_target,
    first_wrong_token,
    mean_accepted,
    most_probable,
    not_called,
)
from tests.helpers.table_models import every_outcome

# Sums of some thousand float64 products: an exact rule has an error of about 1e-16, a wrong one of
# 1e-2.
EXACT = 1e-12
each_rule = pytest.mark.parametrize(
    "rule", [matching_rule, token_rule, block_rule], ids=lambda rule: rule.__name__
)


def on_distributions(own, rule):
    """Return the rule as a function of distributions. For matching, the target samples from p."""
    if rule is not matching_rule:
        return own(rule)
    mine = own(matching_rule)

    def sampled(p, q, drafts, rng):
        rows = []

        def choose(row):
            rows.append(row)
            return rng.choose(p[row])

        accepted, token = mine(choose, drafts)
        # Every call too many would multiply the outcomes to enumerate.
        assert rows == list(range(accepted + 1)), (
            f"accepted {accepted} drafts: expected calls of choose for "
            f"{list(range(accepted + 1))}, got {rows}"
        )
        return accepted, token

    return sampled


def explained(name, off, one_round, p, q, rule, drafts=""):
    """Return the message for a wrong distribution: the first token that has it, and a hint.

    Short lines, because `--mine` shows the first 160 characters of each.
    """
    prefix, got = first_wrong_token(one_round, p, EXACT)
    before = f"after the tokens {list(prefix)}" if prefix else "at the first position"
    lines = [
        f"{name}: the distribution of the text is off by {off:.2g}, expected 0",
        f"the first wrong token is {before}: expected p = {p[prefix].round(3)}, got {got.round(3)}",
    ]
    if len(prefix) < DEPTH:
        lines.append(f"the draft at this position is from {drafts}q = {q[prefix].round(3)}")
    unused = [] if rule.__name__ == matching_rule.__name__ else not_called(rule)
    if unused:
        lines.append(
            f"your rule can end without {' or '.join(unused)}: all randomness must come from rng"
        )
    return "\n".join(lines)


def no_distributions(prefixes):
    return None


def test_there_are_at_least_50_pairs_of_distributions():
    assert len(PAIRS) >= 50


def test_the_matching_rule_asks_for_one_choice_per_emitted_token_in_order(own):
    """A choice may use up random numbers, so plain decoding asks for the same choices."""
    for choices in itertools.product((5, 6), repeat=DEPTH + 1):
        asked = []

        def choose(j, choices=choices, asked=asked):
            asked.append(j)
            return choices[j]

        drafts = [5] * DEPTH
        case = f"with drafts {drafts} and choices {list(choices)}"
        accepted, token = own(matching_rule)(choose, drafts)
        emitted, correct = [*drafts[:accepted], token], list(choices[: accepted + 1])
        assert emitted == correct, f"{case}: expected the tokens {correct}, got {emitted}"
        rows = list(range(accepted + 1))
        assert asked == rows, f"{case}: expected calls of choose for {rows}, got {asked}"
        assert accepted == DEPTH or token != drafts[accepted], (
            f"{case}: accepted only {accepted} drafts, although the next one equals its choice"
        )


@each_rule
def test_if_drafts_are_sampled_from_q_every_rule_keeps_the_targets_distribution(own, rule):
    for name, (p, q) in PAIRS.items():
        one_round = chain_round(on_distributions(own, rule), p, q)
        off = distance_to_target(one_round, p)
        assert off <= EXACT, explained(name, off, one_round, p, q, own(rule))


@each_rule
def test_all_rules_are_exact_for_one_hot_drafts_and_accept_equally_often(own, rule):
    for name, (p, q) in PAIRS.items():
        one_round = chain_round(on_distributions(own, rule), p, q, most_probable, no_distributions)
        off = distance_to_target(one_round, p)
        assert off <= EXACT, explained(name, off, one_round, p, q, own(rule), "the argmax of ")
        draft, expected = (), 0.0
        for _ in range(DEPTH):
            draft += (int(q[draft].argmax()),)
            expected += np.prod([p[draft[:i]][token] for i, token in enumerate(draft)])
        accepted = mean_accepted(one_round)
        assert accepted == pytest.approx(expected, abs=EXACT), (
            f"{name}: with one-hot drafts, {accepted:.3f} of {DEPTH} drafts are accepted on "
            f"average, expected {expected:.3f}"
        )


def test_the_block_rule_never_accepts_less_than_one_draft_at_a_time_and_often_more(own):
    more = []
    for name, (p, q) in PAIRS.items():
        token, block = (
            mean_accepted(chain_round(rule, p, q)) for rule in (token_rule, own(block_rule))
        )
        assert block >= token - EXACT, (
            f"{name}: {block:.3f} of {DEPTH} drafts are accepted on average, expected at least "
            f"{token:.3f}, as with the token rule"
        )
        more.append(block > token + 0.01)
    assert np.mean(more) > 0.5


@pytest.mark.parametrize("name", ["random-0", "random-1", "random-2", "target-with-zeros-0"])
def test_the_token_rule_accepts_a_draft_as_often_as_p_and_q_overlap(own, name):
    p, q = PAIRS[name]
    overlap = np.minimum(p[()], q[()]).sum()
    accepted = mean_accepted(chain_round(own(token_rule), p, q, depth=1))
    assert accepted == pytest.approx(overlap, abs=EXACT), (
        f"accepted with probability {accepted:.3f}, expected sum min(p, q) = {overlap:.3f}"
    )


@pytest.mark.parametrize("rule", [token_rule, block_rule])
def test_without_drafts_a_rule_is_plain_sampling(own, rule):
    p = np.array([0.2, 0.0, 0.8])
    found = every_outcome(lambda rng: own(rule)(p[None], None, [], rng))
    assert found == {(0, 0): pytest.approx(0.2), (0, 2): pytest.approx(0.8)}


@pytest.mark.parametrize("rule", [token_rule, block_rule])
def test_a_draft_with_probability_0_under_q_raises_an_error(own, rule):
    q = np.array([[0.0, 1.0], [0.5, 0.5]])
    with pytest.raises(ValueError):  # a reader's message may be another one
        every_outcome(lambda rng: own(rule)(q, q, [0], rng))
        pytest.fail(
            "draft 0 was not sampled from q, which gives it probability 0: raise ValueError, as "
            "probability_ratio does"
        )


@pytest.mark.parametrize("kind", [TokenRule, BlockRule, Match])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(), SamplingParams(temperature=0.7, top_k=2), SamplingParams(top_p=0.7)],
    ids=["plain", "top-k", "top-p"],
)
def test_every_rule_samples_and_verifies_with_truncated_distributions(sampling, kind):
    random = np.random.default_rng(2)
    logits = {prefix: random.standard_normal((1, 3)) for prefix in PAIRS["random-0"][0]}
    draft_logits = {prefix: random.standard_normal((1, 3)) for prefix in logits}

    def one_round(rng, truncated=True):
        rule = kind(sampling, rng)
        drafts, scores = [], []
        for index in range(DEPTH):
            token, score = rule.sample(draft_logits[tuple(drafts)], index)
            drafts.append(int(token[0]))
            scores.append(score)
        prefixes = [tuple(drafts[:index]) for index in range(DEPTH + 1)]
        scores = None if scores[0] is None else np.concatenate(scores)
        rule = kind(sampling if truncated else SamplingParams(sampling.temperature), rng)
        accepted, token = rule.verify(np.concatenate([logits[x] for x in prefixes]), drafts, scores)
        return (*drafts[:accepted], token), accepted

    p = {prefix: sampling.probabilities(row)[0] for prefix, row in logits.items()}
    assert distance_to_target(one_round, p) <= EXACT
    if (
        sampling != SamplingParams()
    ):  # vLLM #10198: the sampling settings were not applied to the target
        assert distance_to_target(lambda rng: one_round(rng, truncated=False), p) > 0.01


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [
        ([1, 2, 0], (3, 3)),
        ([1, 2, 1], (2, 0)),
        ([1, 0, 0], (1, 2)),
        ([0, 2, 0], (0, 1)),
        ([], (0, 1)),
    ],
    ids=["all accepted", "last wrong", "middle wrong", "first wrong", "no drafts"],
)
def test_greedy_verification_accepts_up_to_the_first_difference_and_corrects_it(drafts, expected):
    best = [1, 2, 0, 3][: len(drafts) + 1]
    logits = np.eye(4, dtype=np.float32)[best]
    assert Greedy().verify(logits, drafts, None) == expected


def test_greedy_verification_emits_the_lowest_id_of_equal_logits():
    assert Greedy().verify(np.zeros((2, 5), np.float32), [0], None) == (1, 0)
    tokens, scores = Greedy().sample(np.zeros((2, 5), np.float32), 0)
    assert tokens.tolist() == [0, 0] and scores is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(0),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.9),
        SamplingParams(0.7, top_k=2, top_p=0.9),
    ],
    ids=str,
)
def test_every_rule_raises_an_error_if_a_logit_is_not_finite(sampling, name, bad):
    logits = np.zeros((1, 4), np.float32)
    logits[0, 2] = bad
    with pytest.raises(UserError, match="not a number"):
        make_rule(name, sampling, 0, 4, 0).verify(logits, [], None)
    for row in (0, 1):  # the rule accepts a draft in the first row, so it uses the second row
        logits = np.tile(np.float32([30, 0, 0, -30]), (2, 1))
        logits[row, 3] = bad
        with pytest.raises(UserError, match="not a number"):
            make_rule(name, sampling, 0, 4, 0).verify(logits, [0], None)
        with pytest.raises(UserError, match="not a number"):
            make_rule(name, sampling, 0, 4, 0).verify_tree(logits, Tree([1, 0], [0, 1]))


def test_shared_noise_emits_the_same_tokens_for_any_drafts():
    random, sampling = np.random.default_rng(0), SamplingParams(temperature=0.8)
    for seed in range(200):
        logits = random.standard_normal((3, 3))
        plain = [SharedNoise(sampling, GumbelNoise(seed, 3), 7 + row) for row in range(3)]
        choices = [
            rule.verify(logits[row : row + 1], [], None)[1] for row, rule in enumerate(plain)
        ]
        rule = SharedNoise(sampling, GumbelNoise(seed, 3), 7)
        drafts = rule.sample(logits[:2] + 0.3 * random.standard_normal((2, 3)), 0)[0].tolist()
        accepted, token = rule.verify(logits, drafts, None)
        assert [*drafts[:accepted], token] == choices[: accepted + 1]
        assert rule.position == 7 + accepted + 1


def test_shared_noise_accepts_almost_as_often_as_p_and_q_overlap():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    distance = np.abs(p - q).sum() / 2
    noise = GumbelNoise(11, 3).rows(0, 20_000)
    share = ((np.log(p) + noise).argmax(-1) == (np.log(q) + noise).argmax(-1)).mean()
    assert (1 - distance) / (1 + distance) - 0.02 <= share <= 1 - distance + 0.02


def test_greedy_sampling_makes_every_rule_greedy_and_an_unknown_rule_is_an_error():
    for name in RULES:
        assert isinstance(make_rule(name, SamplingParams(temperature=0), 0, 4, 0), Greedy)
        assert isinstance(make_rule(name, SamplingParams(top_k=1), 0, 4, 0), Greedy)
        assert not isinstance(make_rule(name, SamplingParams(), 0, 4, 0), Greedy)
    with pytest.raises(
        UserError,
        match="unknown verification rule 'typical': use one of shared-noise, token, block, match",
    ):
        make_rule("typical", SamplingParams(), 0, 4, 0)


@pytest.mark.parametrize("kind", [Greedy, SharedNoise, Match, TokenRule, BlockRule, ProcessedRule])
def test_every_rule_has_the_methods_of_the_protocol(kind):
    def parameters(function):
        return [
            (parameter.name, parameter.default)
            for parameter in inspect.signature(function).parameters.values()
        ]

    methods = {name: function for name, function in vars(Rule).items() if not name.startswith("_")}
    assert set(methods) == {
        "coupling",
        "sample",
        "verify",
        "sample_children",
        "verify_tree",
        "perturbed_argmax",
        "softmax_points",
    }
    for name, function in methods.items():
        if callable(function):
            assert parameters(getattr(kind, name)) == parameters(function), name
        assert hasattr(kind, name)
