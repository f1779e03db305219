"""Pairs of laws to verify with, and the exact law of a text that one round of a rule begins."""

import itertools

import numpy as np

from minimtp.decode.rules.tree import Tree
from tests.table_models import every_outcome, total_variation

DEPTH = 3  # drafts in a chain, and behind one another in a tree


def random_laws(random, zeros, vocabulary=3):
    """Laws for every prefix of up to DEPTH tokens; a share of the entries is exactly zero."""
    laws = {}
    for length in range(DEPTH + 1):
        for prefix in itertools.product(range(vocabulary), repeat=length):
            weights = random.dirichlet(np.full(vocabulary, 0.7)) * (
                random.random(vocabulary) >= zeros
            )
            weights[random.integers(vocabulary)] += 0.01
            laws[prefix] = weights / weights.sum()
    return laws


def one_hot(laws):
    return {prefix: np.eye(len(law))[law.argmax()] for prefix, law in laws.items()}


def _pairs():
    """(name, p, q), the target's and the drafter's laws, by the dozen."""
    random = np.random.default_rng(5)
    for index in range(40):
        zeros = (0.0, 0.0, 0.3, 0.6)[index % 4]
        yield (
            f"random-{index}",
            random_laws(random, zeros, 3 + index % 2),
            random_laws(random, zeros, 3 + index % 2),
        )
    for index in range(3):
        p, q = random_laws(random, 0.0), random_laws(random, 0.3)
        yield f"equal-{index}", p, p
        yield f"one-hot-target-{index}", one_hot(p), q
        yield f"one-hot-draft-law-{index}", p, one_hot(q)
        yield f"both-one-hot-{index}", one_hot(p), one_hot(q)
        yield f"target-with-zeros-{index}", q, p
    disjoint = ({}, {})
    for prefix in p:
        disjoint[0][prefix], disjoint[1][prefix] = (
            np.array([0.4, 0.6, 0.0]),
            np.array([0.0, 0.0, 1.0]),
        )
    yield "disjoint", *disjoint
    nearly = {prefix: law + np.array([1e-17, 0, -1e-17]) for prefix, law in p.items()}
    yield "equal-but-for-rounding", p, nearly
    two = {prefix: np.array([0.5, 0.5, 0.0]) for prefix in p}
    yield "support-smaller-than-the-tree-is-wide", p, two


PAIRS = {name: (p, q) for name, p, q in _pairs()}


def one_draft(rng, law, count):
    return [rng.choose(law) for _ in range(count)]


def distinct_drafts(rng, law, count):
    with np.errstate(divide="ignore"):
        return rng.sample_distinct(np.log(law), count)


def most_probable(rng, law, count):
    """Not drawn at all."""
    return np.argsort(-law, kind="stable")[:count].tolist()


def chain_round(rule, p, q, draw=one_draft, declared=None, depth=DEPTH):
    """A function of dice: one round of a chain's rule -> the tokens it emits and how many drafts it accepted.

    draw: how a draft is drawn from its law. declared: the laws of these prefixes that the rule is told, q's own if not
    given.
    """

    def one_round(rng):
        drafts = []
        for _ in range(depth):
            drafts += draw(rng, q[tuple(drafts)], 1)
        prefixes = [tuple(drafts[:index]) for index in range(depth + 1)]
        laws = (
            np.array([q[prefix] for prefix in prefixes[:depth]])
            if declared is None
            else declared(prefixes[:depth])
        )
        accepted, token = rule(np.array([p[prefix] for prefix in prefixes]), laws, drafts, rng)
        return (*drafts[:accepted], token), accepted

    return one_round


def draw_tree(rng, q, form, draw, replacement=False):
    """(tree, the tokens before each row's): children in the given form, a tree's depths, are drawn level by level.

    Children that a law has no token for are left out, with all that would follow them.
    """
    plan, text = Tree([0] * len(form), form), {0: ()}
    for depth in range(max(form)):
        for row in [row for row in text if form[row] == depth]:
            tokens = draw(rng, q[text[row]], len(plan.children[row]))
            text |= {
                child: (*text[row], token)
                for child, token in zip(plan.children[row], tokens, strict=False)
            }
    rows = sorted(text)
    tokens = [text[row][-1] if row else 0 for row in rows]
    return Tree(tokens, [form[row] for row in rows], replacement=replacement), [
        text[row] for row in rows
    ]


def tree_round(rule, p, q, form, draw=distinct_drafts, replacement=False):
    """As `chain_round`, for a tree's rule and a tree of the given form."""

    def one_round(rng):
        tree, texts = draw_tree(rng, q, form, draw, replacement)
        path, token = rule(
            np.array([p[text] for text in texts]), np.array([q[text] for text in texts]), tree, rng
        )
        return (*(tree.tokens[row] for row in path), token), len(path)

    return one_round


def text_law(one_round, p):
    """{text: probability}: a round, and behind it the target's own tokens up to DEPTH + 1."""
    texts = {}
    for (tokens, _), probability in every_outcome(one_round).items():
        for text, share in continuations(tokens, p):
            texts[text] = texts.get(text, 0.0) + probability * share
    return texts


def target_law(p):
    return dict(continuations((), p))


def continuations(tokens, p):
    """(text of DEPTH + 1 tokens, probability) for every text that begins with `tokens`."""
    if len(tokens) == DEPTH + 1:
        yield tokens, 1.0
        return
    for token, probability in enumerate(p[tokens]):
        for text, share in continuations((*tokens, token), p):
            yield text, probability * share


def wrong_by(one_round, p):
    """Total variation between the text that a round begins and the target's own."""
    return total_variation(text_law(one_round, p), target_law(p))


def mean_accepted(one_round):
    return sum(
        accepted * probability for (_, accepted), probability in every_outcome(one_round).items()
    )
