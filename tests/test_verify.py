"""Verification rules, proved: every outcome of every rule is enumerated, and wrong rules are shown to fail the same proof."""

import itertools

import numpy as np
import pytest

from minimtp.decode import verify
from minimtp.decode.sampling import Law, Noise
from minimtp.decode.verify import Greedy, SharedNoise, TokenRule, make_rule, token_rule
from minimtp.errors import UserError
from tests.table_models import every_outcome, total_variation

EXACT = 1e-12
DEPTH = 2


def random_laws(random, zeros, vocabulary=3):
    """Laws for every prefix of up to DEPTH tokens; a share of the entries is exactly zero."""
    laws = {}
    for length in range(DEPTH + 1):
        for prefix in itertools.product(range(vocabulary), repeat=length):
            weights = random.dirichlet(np.full(vocabulary, 0.7)) * (random.random(vocabulary) >= zeros)
            weights[random.integers(vocabulary)] += 0.01
            laws[prefix] = weights / weights.sum()
    return laws


def one_hot(laws):
    return {prefix: np.eye(len(law))[law.argmax()] for prefix, law in laws.items()}


def cases():
    """(name, p, q) by the dozen; q is None where the drafts are one-hot, with p's runner-up as the draft."""
    random = np.random.default_rng(5)
    for index in range(40):
        zeros = (0.0, 0.0, 0.3, 0.6)[index % 4]
        yield f"random-{index}", random_laws(random, zeros, 3 + index % 2), random_laws(random, zeros, 3 + index % 2)
    for index in range(3):
        p, q = random_laws(random, 0.0), random_laws(random, 0.3)
        yield f"equal-{index}", p, p
        yield f"one-hot-target-{index}", one_hot(p), q
        yield f"one-hot-draft-law-{index}", p, one_hot(q)
        yield f"both-one-hot-{index}", one_hot(p), one_hot(q)
        yield f"target-with-zeros-{index}", q, p
    disjoint = ({}, {})
    for prefix in p:
        disjoint[0][prefix], disjoint[1][prefix] = np.array([0.4, 0.6, 0.0]), np.array([0.0, 0.0, 1.0])
    yield "disjoint", *disjoint
    nearly = {prefix: law + np.array([1e-17, 0, -1e-17]) for prefix, law in p.items()}
    yield "equal-but-for-rounding", p, nearly


CASES = {name: (p, q) for name, p, q in cases()}


def target_law(p, depth=DEPTH):
    vocabulary = len(p[()])
    return {
        text: np.prod([p[text[:index]][token] for index, token in enumerate(text)])
        for text in itertools.product(range(vocabulary), repeat=depth + 1)
    }


def text_law(rule, p, q, propose=None, declared=None, depth=DEPTH):
    """{text: probability} of one round of `rule`, completed to depth + 1 tokens from p.

    propose: draws a draft, (dice, law) -> token. declared: the laws that the rule is told, q itself if not given.
    """

    def one_round(dice):
        drafts = []
        for _ in range(depth):
            law = q[tuple(drafts)]
            drafts.append(propose(dice, law) if propose else dice.choose(law))
        prefixes = [tuple(drafts[:index]) for index in range(depth + 1)]
        laws = np.array([q[prefix] for prefix in prefixes[:depth]]) if declared is None else declared(prefixes[:depth])
        accepted, token = rule(np.array([p[prefix] for prefix in prefixes]), laws, drafts, dice)
        text = [*drafts[:accepted], token]
        while len(text) < depth + 1:
            text.append(dice.choose(p[tuple(text)]))
        return tuple(text)

    return every_outcome(one_round)


def most_likely(dice, law):
    return int(law.argmax())


def no_laws(prefixes):
    return None


def test_there_are_enough_cases_for_a_proof_by_enumeration():
    assert len(CASES) >= 50


@pytest.mark.parametrize("name", CASES)
def test_the_token_rule_gives_the_targets_law_for_drafts_drawn_from_their_law(name):
    p, q = CASES[name]
    assert total_variation(text_law(token_rule, p, q), target_law(p)) <= EXACT


@pytest.mark.parametrize("name", CASES)
def test_the_token_rule_gives_the_targets_law_for_one_hot_drafts(name):
    p, q = CASES[name]
    assert total_variation(text_law(token_rule, p, q, propose=most_likely, declared=no_laws), target_law(p)) <= EXACT


@pytest.mark.parametrize("name", ["random-0", "random-1", "random-2", "target-with-zeros-0"])
def test_the_token_rule_accepts_a_draft_as_often_as_the_two_laws_overlap(name):
    p, q = CASES[name]

    def first_draft_stands(dice):
        draft = dice.choose(q[()])
        return token_rule(np.array([p[()], p[(draft,)]]), q[()][None], [draft], dice)[0] == 1

    assert every_outcome(first_draft_stands)[True] == pytest.approx(np.minimum(p[()], q[()]).sum(), abs=EXACT)


def test_without_drafts_the_token_rule_is_plain_sampling():
    p = np.array([0.2, 0.0, 0.8])
    law = every_outcome(lambda dice: token_rule(p[None], None, [], dice))
    assert law == {(0, 0): pytest.approx(0.2), (0, 2): pytest.approx(0.8)}


def test_a_draft_that_its_own_law_excludes_is_an_error_not_a_wrong_text():
    law = np.array([[0.0, 1.0], [0.5, 0.5]])
    with pytest.raises(ValueError, match="draft 1 is token 0, which the law it is said to be drawn from excludes"):
        every_outcome(lambda dice: token_rule(law, law, [0], dice))


# Mutants: wrong rules. Each has to fail the enumeration somewhere, or the enumeration proves nothing.


def resample_from_the_target(patch):
    patch.setattr(verify, "residual", lambda p, q: p)
    return {}


def keep_the_negative_part_of_the_residual(patch):
    patch.setattr(verify, "residual", lambda p, q: np.abs(p - q) / np.abs(p - q).sum() if (p != q).any() else p)
    return {}


def argmax_drafts_with_a_soft_law(patch):
    return {"propose": most_likely}


def sampled_drafts_declared_one_hot_but_resampled_with_them(patch):
    patch.setattr(verify, "without", lambda p, token: p)
    return {"propose": most_likely, "declared": no_laws}


def laws_of_the_wrong_draft(patch):
    def rule(p, q, drafts, dice):
        return token_rule(p, q[::-1], drafts, dice) if q.all() else (0, dice.choose(p[0]))

    return {"rule": rule}


def last_token_from_the_law_before_it(patch):
    def rule(p, q, drafts, dice):
        return token_rule(np.concatenate([p[:-1], p[-2:-1]]), q, drafts, dice)

    return {"rule": rule}


def a_draft_of_low_probability_is_discarded(patch):
    def rule(p, q, drafts, dice):
        likely = next((j for j, draft in enumerate(drafts) if q[j, draft] < 0.3), len(drafts))
        return token_rule(p[: likely + 1], q[:likely], drafts[:likely], dice)

    return {"rule": rule}


MUTANTS = [
    resample_from_the_target,
    keep_the_negative_part_of_the_residual,
    argmax_drafts_with_a_soft_law,
    sampled_drafts_declared_one_hot_but_resampled_with_them,
    laws_of_the_wrong_draft,
    last_token_from_the_law_before_it,
    a_draft_of_low_probability_is_discarded,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_enumeration_kills_the_mutant(mutant, monkeypatch):
    changes = {"rule": token_rule} | mutant(monkeypatch)
    rule = changes.pop("rule")
    laws = [CASES[f"random-{index}"] for index in (0, 1, 4, 5)]
    assert max(total_variation(text_law(rule, p, q, **changes), target_law(p)) for p, q in laws) > 0.01


@pytest.mark.parametrize("law", [Law(), Law(temperature=0.7, top_k=2), Law(top_p=0.7)], ids=["plain", "top-k", "top-p"])
def test_the_token_rule_object_verifies_against_the_final_law(law):
    random = np.random.default_rng(2)
    logits = {prefix: random.standard_normal((1, 3)) for prefix in CASES["random-0"][0]}
    draft_logits = {prefix: random.standard_normal((1, 3)) for prefix in logits}

    def one_round(dice, truncated=True):
        rule = TokenRule(law, dice)
        drafts, scores = [], []
        for index in range(DEPTH):
            token, score = rule.draw(draft_logits[tuple(drafts)], index)
            drafts.append(int(token[0]))
            scores.append(score)
        prefixes = [tuple(drafts[:index]) for index in range(DEPTH + 1)]
        if not truncated:
            rule = TokenRule(Law(law.temperature), dice)
        accepted, token = rule.verify(np.concatenate([logits[x] for x in prefixes]), drafts, np.concatenate(scores))
        text = [*drafts[:accepted], token]
        while len(text) < DEPTH + 1:
            text.append(dice.choose(law.probabilities(logits[tuple(text)])[0]))
        return tuple(text)

    expected = target_law({prefix: law.probabilities(row)[0] for prefix, row in logits.items()})
    assert total_variation(every_outcome(one_round), expected) <= EXACT
    if law != Law():  # the mutant: an untruncated target
        assert total_variation(every_outcome(lambda dice: one_round(dice, truncated=False)), expected) > 0.01


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [([1, 2, 0], (3, 3)), ([1, 2, 1], (2, 0)), ([1, 0, 0], (1, 2)), ([0, 2, 0], (0, 1)), ([], (0, 1))],
    ids=["all accepted", "last wrong", "middle wrong", "first wrong", "no drafts"],
)
def test_greedy_accepts_up_to_the_first_difference_and_corrects_it(drafts, expected):
    best = [1, 2, 0, 3][: len(drafts) + 1]
    logits = np.eye(4, dtype=np.float32)[best]
    assert Greedy().verify(logits, drafts, None) == expected


def test_greedy_takes_the_lowest_of_equal_logits():
    assert Greedy().verify(np.zeros((2, 5), np.float32), [0], None) == (1, 0)
    tokens, scores = Greedy().draw(np.zeros((2, 5), np.float32), 0)
    assert tokens.tolist() == [0, 0] and scores is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", verify.RULES)
@pytest.mark.parametrize("law", [Law(), Law(0)], ids=["sampled", "greedy"])
def test_every_rule_refuses_logits_that_are_no_numbers(law, name, bad):
    logits = np.zeros((1, 4), np.float32)
    logits[0, 2] = bad
    with pytest.raises(UserError, match="not a number"):
        make_rule(name, law, 0, 4, 0).verify(logits, [], None)


def test_shared_noise_emits_the_same_tokens_whatever_was_drafted():
    random, law = np.random.default_rng(0), Law(temperature=0.8)
    for seed in range(200):
        logits = random.standard_normal((3, 3))
        plain = [SharedNoise(law, Noise(seed, 3), 7 + row) for row in range(3)]
        choices = [rule.verify(logits[row : row + 1], [], None)[1] for row, rule in enumerate(plain)]
        rule = SharedNoise(law, Noise(seed, 3), 7)
        drafts = rule.draw(logits[:2] + 0.3 * random.standard_normal((2, 3)), 0)[0].tolist()
        accepted, token = rule.verify(logits, drafts, None)
        assert [*drafts[:accepted], token] == choices[: accepted + 1]
        assert rule.position == 7 + accepted + 1


def test_shared_noise_accepts_almost_as_often_as_the_laws_overlap():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    distance = np.abs(p - q).sum() / 2
    noise = Noise(11, 3).rows(0, 20_000)
    share = ((np.log(p) + noise).argmax(-1) == (np.log(q) + noise).argmax(-1)).mean()
    assert (1 - distance) / (1 + distance) - 0.02 <= share <= 1 - distance + 0.02


def test_a_greedy_law_needs_no_randomness_under_any_rule_and_unknown_rules_are_refused():
    for name in verify.RULES:
        assert isinstance(make_rule(name, Law(temperature=0), 0, 4, 0), Greedy)
        assert isinstance(make_rule(name, Law(top_k=1), 0, 4, 0), Greedy)
        assert not isinstance(make_rule(name, Law(), 0, 4, 0), Greedy)
    with pytest.raises(UserError, match="unknown verification rule 'typical': use token or shared-noise"):
        make_rule("typical", Law(), 0, 4, 0)
