"""Verification: which drafts stand, and which token follows them, so that the text is exactly the target's own.

A round knows K drafts d_1 .. d_K and, from one pass of the target over them, the laws p_0 .. p_K: p_j is the target's
final law (see sampling.py) of the next token given d_1 .. d_j. A rule decides how many drafts are accepted and draws
the one token that follows. It is *exact* when the tokens it emits have the law the target alone would have given them,
whatever was drafted.

A rule is a coupling of two laws: it says how the drafter draws as well as how the target judges. So both sides are
methods of one object:

    draw(logits (R, V), index)                the drafter's tokens for drafts index .. index + R - 1, and their scores
    verify(logits (K+1, V), drafts, scores)   -> (accepted, token)

Scores are logarithms of the laws q that drafts were drawn from, up to a constant a row (a model's logits over the
temperature). A drafter may ignore `draw` and propose anything, such as n-grams: drafts whose scores are None are
one-hot.
"""

from collections.abc import Sequence
from math import isfinite

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.decode.sampling import NOT_FINITE, Dice, Law, Noise, SeededDice, softmax
from minimtp.errors import UserError


def token_rule(p: np.ndarray, q: np.ndarray | None, drafts: Sequence[int], dice: Dice) -> tuple[int, int]:
    """The token rule of speculative sampling: judge the drafts one at a time, stop at the first that fails.

    Rule: accept d with probability min(1, p(d) / q(d)); at the first rejection draw from norm(max(p - q, 0)); when all
    are accepted draw one more from p_K.
    Source: Leviathan et al. 2023 (2211.17192), Chen et al. 2023 (2302.01318).
    Guarantee: every emitted token has the law p given the ones before it, provided d_j was drawn from exactly q_{j-1}.
    Draft j + 1 is accepted with probability sum min(p_j, q_j), the most that any rule judging one token at a time can
    reach.

    p: (K+1, V) float64 final laws of the target. q: (K, V) float64 laws the drafts were drawn from, or None for one-hot
    drafts: then d is accepted with probability p(d), and p without d is what is left. drafts: K tokens.
    Returns (accepted, token). Raises ValueError for a draft that its own law excludes, since then q is not its law.
    """
    for j, draft in enumerate(drafts):
        drafted = 1.0 if q is None else float(q[j, draft])
        if drafted <= 0:
            raise ValueError(f"draft {j + 1} is token {draft}, which the law it is said to be drawn from excludes")
        if not dice.happens(float(p[j, draft]) / drafted):
            return j, dice.choose(without(p[j], draft) if q is None else residual(p[j], q[j]))
    return len(drafts), dice.choose(p[len(drafts)])


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """norm(max(p - q, 0)), (V,): what p still owes after q's proposals; p itself where rounding leaves no mass."""
    rest = np.maximum(p - q, 0.0)
    mass = rest.sum()
    return rest / mass if mass > 0 else p


def without(p: np.ndarray, token: int) -> np.ndarray:
    """The residual of a one-hot draft: p with `token` removed, renormalised; p itself where nothing else has mass."""
    rest = p.copy()
    rest[token] = 0.0
    mass = rest.sum()
    return rest / mass if mass > 0 else p


def matching_rule(choices: Sequence[int], drafts: Sequence[int]) -> tuple[int, int]:
    """Accept drafts for as long as they are what the target itself chose; the first choice that differs is the token.

    choices: K + 1 tokens, choices[j] drawn from p_j. Exact for any drafts: only the target's own choices are ever
    emitted.
    """
    for j, draft in enumerate(drafts):
        if draft != choices[j]:
            return j, choices[j]
    return len(drafts), choices[len(drafts)]


def _require_finite(logit: object) -> None:
    """Raises UserError for the logit of a chosen token that is no number: an argmax names a token even among NaNs."""
    if not isfinite(float(logit)):
        raise UserError(NOT_FINITE)


class Greedy:
    """Temperature 0: argmax against argmax, without a softmax anywhere.

    Rule: accept a draft while it is the target's argmax; the first argmax that differs follows.
    Source: Stern et al. 2018 (1811.03115); it is the token rule for one-hot p and q.
    Guarantee: token for token the greedy text of the target. Equal logits: the lowest id, as in plain decoding.
    """

    def draw(self, logits: object, index: int) -> tuple[object, None]:
        return logits.argmax(axis=-1), None

    def verify(self, logits: object, drafts: Sequence[int], scores: np.ndarray | None) -> tuple[int, int]:
        accepted, token = matching_rule(logits.argmax(axis=-1).tolist(), drafts)
        _require_finite(logits[accepted, token])
        return accepted, token


class TokenRule:
    """`token_rule` on the final laws, for sampling: the right law, with fresh randomness at every step.

    Guarantee: the text has the target's law. The same seed gives the same text only with the same drafter and draft
    length.
    """

    def __init__(self, law: Law, dice: Dice) -> None:
        self.law = law
        self.dice = dice

    def draw(self, logits: object, index: int) -> tuple[np.ndarray, np.ndarray]:
        scores = to_numpy(self.law.scores(logits))
        return self.dice.draw(scores), scores

    def verify(self, logits: object, drafts: Sequence[int], scores: np.ndarray | None) -> tuple[int, int]:
        # All drafts' laws at once, in float64: the draws were made from these scores, so q must be their softmax, not a
        # float32 neighbour of it.
        q = None if scores is None else softmax(np.asarray(scores, np.float64))
        return token_rule(to_numpy(self.law.probabilities(logits)), q, drafts, self.dice)


class SharedNoise:
    """Sampling with the same seed, the same text, whatever drafts: drafter and target see the same noise.

    Rule: with Gumbel noise G fixed for every position, the target's token is argmax(log p + G) (a draw from p), the
    draft is argmax(log q + G); accept while they are equal, emit the target's choice where they differ.
    Source: Daliri et al. 2024 (2408.07978), "Coupling without communication"; Gumbel-max as in Maddison et al. 2014.
    Guarantee: token for token what plain decoding gives for this seed, with any drafter and any draft length, where a
    row's logits do not depend on how many rows are computed (compiled kernels; float64 up to its rounding). Similar
    laws have similar maxima: acceptance is at least (1 - TV) / (1 + TV), a little less than the token rule's 1 - TV.
    """

    def __init__(self, law: Law, noise: Noise, position: int) -> None:
        self.law = law
        self.noise = noise
        self.position = position  # of the next token to be emitted

    def draw(self, logits: object, index: int) -> tuple[np.ndarray, None]:
        return self._choose(logits, self.position + index), None

    def verify(self, logits: object, drafts: Sequence[int], scores: np.ndarray | None) -> tuple[int, int]:
        accepted, token = matching_rule(self._choose(logits, self.position).tolist(), drafts)
        _require_finite(logits[accepted, token])
        self.position += accepted + 1
        return accepted, token

    def _choose(self, logits: object, position: int) -> np.ndarray:
        scores = to_numpy(self.law.scores(logits))
        return (scores + self.noise.rows(position, len(scores))).argmax(axis=-1)


Rule = Greedy | TokenRule | SharedNoise
RULES = ("token", "shared-noise")  # the names the user gives; a greedy law makes them the same


def make_rule(name: str, law: Law, seed: int, vocabulary_size: int, position: int) -> Rule:
    """The rule called `name`, for a text whose first new token has this `position`. A greedy law needs no randomness.

    Raises UserError for an unknown name.
    """
    if name not in RULES:
        raise UserError(f"unknown verification rule {name!r}: use {' or '.join(RULES)}")
    if law.greedy:
        return Greedy()
    if name == "token":
        return TokenRule(law, SeededDice(seed))
    return SharedNoise(law, Noise(seed, vocabulary_size), position)
