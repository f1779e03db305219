"""Pairs of distributions to verify with, and the exact distribution of a text after one round."""

import functools
import itertools

import numpy as np

from minimtp.decode.rules.tree import Tree
from tests.helpers.table_models import every_outcome, total_variation

DEPTH = 3  # drafts in a chain, and maximum depth of a tree


def random_distributions(random, zeros, vocabulary=3):
    """Return distributions for every prefix of up to DEPTH tokens. Some entries are exactly 0."""
    distributions = {}
    for length in range(DEPTH + 1):
        for prefix in itertools.product(range(vocabulary), repeat=length):
            weights = random.dirichlet(np.full(vocabulary, 0.7)) * (
                random.random(vocabulary) >= zeros
            )
            weights[random.integers(vocabulary)] += 0.01
            distributions[prefix] = weights / weights.sum()
    return distributions


def one_hot(distributions):
    return {
        prefix: np.eye(len(distribution))[distribution.argmax()]
        for prefix, distribution in distributions.items()
    }


def _pairs():
    """Yield (name, p, q): dozens of distributions of a target and a drafter."""
    random = np.random.default_rng(5)
    for index in range(40):
        zeros = (0.0, 0.0, 0.3, 0.6)[index % 4]
        yield (
            f"random-{index}",
            random_distributions(random, zeros, 3 + index % 2),
            random_distributions(random, zeros, 3 + index % 2),
        )
    for index in range(3):
        p, q = random_distributions(random, 0.0), random_distributions(random, 0.3)
        yield f"equal-{index}", p, p
        yield f"one-hot-target-{index}", one_hot(p), q
        yield f"one-hot-draft-distribution-{index}", p, one_hot(q)
        yield f"both-one-hot-{index}", one_hot(p), one_hot(q)
        yield f"target-with-zeros-{index}", q, p
    disjoint = ({}, {})
    for prefix in p:
        disjoint[0][prefix], disjoint[1][prefix] = (
            np.array([0.4, 0.6, 0.0]),
            np.array([0.0, 0.0, 1.0]),
        )
    yield "disjoint", *disjoint
    nearly = {
        prefix: distribution + np.array([1e-17, 0, -1e-17]) for prefix, distribution in p.items()
    }
    yield "equal-but-for-rounding", p, nearly
    two = {prefix: np.array([0.5, 0.5, 0.0]) for prefix in p}
    yield "support-smaller-than-the-tree-is-wide", p, two


PAIRS = {name: (p, q) for name, p, q in _pairs()}


def one_draft(rng, distribution, count):
    return [rng.choose(distribution) for _ in range(count)]


def distinct_drafts(rng, distribution, count):
    with np.errstate(divide="ignore"):
        return rng.sample_distinct(np.log(distribution), count)


def most_probable(rng, distribution, count):
    """The drafts are not sampled."""
    return np.argsort(-distribution, kind="stable")[:count].tolist()


def chain_round(rule, p, q, sample=one_draft, declared=None, depth=DEPTH):
    """Return a function of a random source that runs one round of a rule for chains.

    The function returns the emitted tokens and the number of accepted drafts.

    sample: how a draft is sampled from its distribution. declared: the distributions that the rule
    is told for these prefixes, by default q's own.
    """

    def one_round(rng):
        drafts = []
        for _ in range(depth):
            drafts += sample(rng, q[tuple(drafts)], 1)
        prefixes = [tuple(drafts[:index]) for index in range(depth + 1)]
        distributions = (
            np.array([q[prefix] for prefix in prefixes[:depth]])
            if declared is None
            else declared(prefixes[:depth])
        )
        accepted, token = rule(
            np.array([p[prefix] for prefix in prefixes]), distributions, drafts, rng
        )
        return (*drafts[:accepted], token), accepted

    return one_round


def sample_tree(rng, q, form, sample):
    """Return (tree, each row's path). Children are sampled level by level.

    form: the depths of the tree.

    Children for which a distribution has no token left are omitted, with their descendants.
    """
    plan, text = Tree([0] * len(form), form), {0: ()}
    for depth in range(max(form)):
        for row in [row for row in text if form[row] == depth]:
            tokens = sample(rng, q[text[row]], len(plan.children[row]))
            text |= {
                child: (*text[row], token)
                for child, token in zip(plan.children[row], tokens, strict=False)
            }
    rows = sorted(text)
    tokens = [text[row][-1] if row else 0 for row in rows]
    return Tree(tokens, [form[row] for row in rows]), [text[row] for row in rows]


def tree_round(rule, p, q, form, sample=distinct_drafts):
    """Like `chain_round`, for a rule for trees and a tree of the given form."""

    def one_round(rng):
        tree, texts = sample_tree(rng, q, form, sample)
        path, token = rule(
            np.array([p[text] for text in texts]), np.array([q[text] for text in texts]), tree, rng
        )
        return (*(tree.tokens[row] for row in path), token), len(path)

    return one_round


# Several tests ask for the outcomes of the same round.
outcomes_of_round = functools.lru_cache(maxsize=2000)(every_outcome)


def text_distribution(one_round, p):
    """Return {text: probability} of a round that the target continues to DEPTH + 1 tokens."""
    texts = {}
    for (tokens, _), probability in outcomes_of_round(one_round).items():
        for text, share in continuations(tokens, p):
            texts[text] = texts.get(text, 0.0) + probability * share
    return texts


def target_distribution(p):
    return dict(continuations((), p))


def continuations(tokens, p):
    """Yield (text of DEPTH + 1 tokens, probability) for every text that begins with `tokens`."""
    if len(tokens) == DEPTH + 1:
        yield tokens, 1.0
        return
    for token, probability in enumerate(p[tokens]):
        for text, share in continuations((*tokens, token), p):
            yield text, probability * share


def distance_to_target(one_round, p):
    """Return the total variation between texts that begin with a round and the target's texts."""
    return total_variation(text_distribution(one_round, p), target_distribution(p))


def first_wrong_token(one_round, p, tolerance):
    """Return (prefix, distribution): the shortest text after which the next token has another
    distribution than p, and this distribution.
    """
    texts = text_distribution(one_round, p)
    for prefix in sorted(p, key=len):
        share = np.zeros(len(p[prefix]))  # of each token, among all texts
        for text, probability in texts.items():
            if text[: len(prefix)] == prefix:
                share[text[len(prefix)]] += probability
        off = np.abs(share - share.sum() * p[prefix]).max()
        if share.any() and off > tolerance / (len(p) * len(share)):
            return prefix, share / share.sum()
    raise LookupError("the distribution of the text is the target's")


def not_called(rule):
    """Return the methods of its random source that a rule for chains does not call when it accepts
    its draft, or when it rejects it. It needs both each time.
    """
    p, q = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.75, 0.25]])
    unused = set()
    for accepted in (True, False):
        rng = RecordingRandomSource(accepted)
        rule(p, q, [0], rng)
        unused |= {"happens", "choose"} - rng.called
    return sorted(f"rng.{name}" for name in unused)


class RecordingRandomSource:
    """Records which methods are called. All coins have the same result."""

    def __init__(self, result):
        self.result, self.called = result, set()

    def happens(self, probability):
        self.called.add("happens")
        return self.result

    def choose(self, distribution):
        self.called.add("choose")
        return int(np.argmax(distribution))


def mean_accepted(one_round):
    outcomes = outcomes_of_round(one_round)
    return sum(accepted * probability for (_, accepted), probability in outcomes.items())
