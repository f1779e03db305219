"""Verification: which drafts stand, and which token follows them, so that the text is exactly the target's own.

A round knows the drafts and, from one pass of the target over them, its final law (see sampling.py) of the token after each.
A rule decides which drafts are accepted and draws the one token that follows. It is *exact* when the tokens it emits have
the law the target alone would have given them, whatever was drafted.

    name           what is guaranteed                                a tree's rule          greedy (temperature 0)
    shared-noise   the text of plain decoding with the same seed     matching_path
    token          the target's law                                  recursive_rejection    all four are the same: drafts
    block          the target's law, with more drafts accepted       traversal              that equal the argmax stand
    match          the text of plain decoding with the same seed,    matching_path
                   unless the drafter uses random numbers

A rule is a coupling of two laws: it says how the drafter draws as well as how the target judges. So both sides are methods of
one object, twice, for a chain and for a tree:

    draw(logits (R, V), index)                     the drafter's tokens (R,) for drafts index .. index + R - 1, scores
    verify(logits (K+1, V), drafts, scores)        -> (accepted, token)

    draw_children(logits (1, V), path, width)      at most `width` different tokens to follow the drafted tokens `path`, in
                                                   the order drawn, and how likely each is to be the one accepted
    verify_tree(logits (N+1, V), tree)             -> (path, token), see trees.py

    guess(depth, xp)                               a `Guess`, where drafts are the largest scores and nothing else, so that
                                                   compiled code can make a whole draft; None where `draw` has to be asked

On a device (logits of CuPy) the host waits once to verify: `Greedy` and `SharedNoise` choose there, and what comes to the host
are the chosen tokens, a number a row; whether their logits are numbers comes with them. `Match`, `TokenRule` and `BlockRule`
judge on the host and have rows of scores or laws sent there.

Scores (R, V) are logarithms of the laws q that drafts were drawn from, up to a constant a row (a model's logits over the
temperature); None where the rule does not need them, or nothing was drawn. A drafter may ignore `draw` and propose anything,
such as n-grams: drafts whose scores are None are one-hot.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from types import ModuleType
from typing import NamedTuple, Protocol

from minimtp import kernels
from minimtp.backend import array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.chains import block_rule, matching_rule, token_rule
from minimtp.decode.rules.trees import Tree, matching_path, recursive_rejection, traversal
from minimtp.decode.sampling import (
    NOT_FINITE,
    GumbelNoise,
    RandomSource,
    SamplingParams,
    SeededRandomSource,
    softmax,
)
from minimtp.errors import UserError


class Children(NamedTuple):
    """Candidates for one place. The beliefs decide the form of a tree, so its speed, and nothing else."""

    tokens: list[int]
    beliefs: list[float]  # descending; they do not depend on which tokens were drawn
    scores: np.ndarray | None  # (1, V)


class Guess(NamedTuple):
    """Drafts are the largest of logits / temperature + noise, of equals the lowest id."""

    temperature: float
    noise: (
        object | None
    )  # (depth, V) float64 of the library asked for, a row for each draft; None: zeros
    sharpness: float  # see `_most_probable`


class Rule(Protocol):
    """See the module's docstring. For one text: a rule may count what it has emitted."""

    def draw(self, logits: object, index: int) -> tuple[object, np.ndarray | None]: ...

    def verify(
        self, logits: object, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]: ...

    def draw_children(self, logits: object, path: Sequence[int], width: int) -> Children: ...

    def verify_tree(self, logits: object, tree: Tree) -> tuple[list[int], int]: ...

    def guess(self, depth: int, xp: ModuleType = np) -> Guess | None: ...


# The largest of a drafter's scores is the target's choice more often than the drafter itself believes, for two arguments of
# the maximum agree where two draws would not. Measured on trained heads, greedy and with shared noise: trees grown with 1.5
# accept the most, or nearly; with 1 they are too broad, behind a chain of as many drafts, with 3 hardly more than a chain.
SHARPNESS = 1.5
# How often a child that was drawn stands: the first as often as the two laws overlap, STANDS where the drafter's is flat and
# nearly always where it is sure (m, its largest probability); each further one in SECOND of the cases in which none before it
# did. Measured on trained heads, on code and on prose, at temperatures 0.7 and 1: .70 at m = .16, .67 at .45, .75 at .65, .87
# at .85, .98 at .97; second children .38 to .44, third ones .33 to .40.
STANDS, SECOND = 0.65, 0.4


class Greedy:
    """Temperature 0: argmax against argmax, without a softmax anywhere. Equal logits: the lowest id, as in plain decoding."""

    def draw(self, logits: object, index: int) -> tuple[object, None]:
        return logits.argmax(axis=-1), None

    def verify(
        self, logits: object, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        if type(logits) is not np.ndarray:
            return _require_number(*matching_rule(_choices(logits).__getitem__, drafts))
        accepted, token = matching_rule(logits.argmax(axis=-1).tolist().__getitem__, drafts)
        _require_finite(logits[accepted, token])
        return accepted, token

    def draw_children(self, logits: object, path: Sequence[int], width: int) -> Children:
        return _most_probable(to_numpy(logits), width, SHARPNESS)

    def guess(self, depth: int, xp: ModuleType = np) -> Guess:
        return Guess(1.0, None, SHARPNESS)

    def verify_tree(self, logits: object, tree: Tree) -> tuple[list[int], int]:
        if type(logits) is not np.ndarray:
            return _require_number(*matching_path(_choices(logits).__getitem__, tree))
        path, token = matching_path(logits.argmax(axis=-1).tolist().__getitem__, tree)
        _require_finite(logits[path[-1] if path else 0, token])
        return path, token


class SharedNoise:
    """Sampling with the same seed, the same text, whatever drafts: drafter and target see the same noise.

    Rule: with Gumbel noise G fixed for every position, the target's token is argmax(log p + G) (a draw from p), the
    draft is argmax(log q + G); accept while they are equal, emit the target's choice where they differ. In a tree, a row's
    children are the largest of log q + G, which are draws from q without replacement.
    Source: Daliri et al. 2024 (2408.07978), "Coupling without communication"; Gumbel-max as in Maddison et al. 2014; the k
    largest by Kool et al. 2019 (1903.06059).
    Guarantee: token for token what plain decoding gives for this seed, with any drafter and any draft length, where a
    row's logits do not depend on how many rows are computed (compiled kernels; float64 up to its rounding). Similar
    laws have similar maxima: acceptance is at least (1 - TV) / (1 + TV), a little less than the token rule's 1 - TV.
    """

    def __init__(self, sampling: SamplingParams, noise: GumbelNoise, position: int) -> None:
        self.law = sampling
        self.noise = noise
        self.position = position  # of the next token to be emitted

    def draw(self, logits: object, index: int) -> tuple[object, None]:
        if type(logits) is not np.ndarray:
            xp = array_module(logits)
            noise = self.noise.rows_on(xp, self.position + index, len(logits))
            return xp.maximum(
                _choose(self.law, logits, noise), 0
            ), None  # where logits are no numbers any draft will do
        return self._with_noise(logits, self.position + index).argmax(axis=-1), None

    def verify(
        self, logits: object, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        if type(logits) is not np.ndarray:
            noise = self.noise.rows_on(array_module(logits), self.position, len(logits))
            accepted, token = matching_rule(
                _choose(self.law, logits, noise).tolist().__getitem__, drafts
            )
            self.position += accepted + 1
            return _require_number(accepted, token)
        choices = self._with_noise(logits, self.position).argmax(axis=-1).tolist()
        accepted, token = matching_rule(choices.__getitem__, drafts)
        _require_finite(logits[accepted, token])
        self.position += accepted + 1
        return accepted, token

    def draw_children(self, logits: object, path: Sequence[int], width: int) -> Children:
        return _most_probable(self._with_noise(logits, self.position + len(path)), width, SHARPNESS)

    def guess(self, depth: int, xp: ModuleType = np) -> Guess | None:
        if _truncates(self.law):
            return None
        noise = (
            self.noise.rows(self.position, depth)
            if xp is np
            else self.noise.rows_on(xp, self.position, depth)
        )
        return Guess(self.law.temperature, noise, SHARPNESS)

    def verify_tree(self, logits: object, tree: Tree) -> tuple[list[int], int]:
        if type(logits) is not np.ndarray:
            xp = array_module(logits)
            noise = self.noise.rows_on(xp, self.position, max(tree.depths) + 1)[
                xp.asarray(tree.depths)
            ]  # (N+1, V)
            path, token = matching_path(_choose(self.law, logits, noise).tolist().__getitem__, tree)
            self.position += len(path) + 1
            return _require_number(path, token)
        noise = self.noise.rows(self.position, max(tree.depths) + 1)[list(tree.depths)]  # (N+1, V)
        choices = (self.law.scores(logits) + noise).argmax(axis=-1).tolist()
        path, token = matching_path(choices.__getitem__, tree)
        _require_finite(logits[path[-1] if path else 0, token])
        self.position += len(path) + 1
        return path, token

    def _with_noise(self, logits: object, position: int) -> np.ndarray:
        scores = to_numpy(self.law.scores(logits))
        return scores + self.noise.rows(position, len(scores))


class Match:
    """Sample-and-match: the target samples as if nothing had been drafted, drafts stand while they are what it sampled.

    Drafts are the most probable tokens of the drafter's law: a draft d is accepted with probability p(d), and drawing d
    at random could only make that smaller.
    Guarantee: `matching_rule`'s and `matching_path`'s. Random numbers are used for emitted tokens only, one each, so the same
    seed gives the text of plain decoding, as long as the drafter asks for none.
    """

    def __init__(self, sampling: SamplingParams, rng: RandomSource) -> None:
        self.law = sampling
        self.rng = rng

    def draw(self, logits: object, index: int) -> tuple[object, None]:
        return logits.argmax(axis=-1), None

    def verify(
        self, logits: object, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        rows = to_numpy(self.law.scores(logits))
        accepted, token = matching_rule(self._sample(rows), drafts)
        _require_finite(rows[accepted, token])
        return accepted, token

    def _sample(self, rows: np.ndarray) -> Callable[[int], int]:
        """row -> the target's own sample there: a row of noise for each token that is emitted, and none for the others."""
        return lambda row: int(self.rng.draw(rows[row : row + 1])[0])

    def draw_children(self, logits: object, path: Sequence[int], width: int) -> Children:
        return _most_probable(to_numpy(self.law.scores(logits)), width, 1.0)

    def guess(self, depth: int, xp: ModuleType = np) -> Guess | None:
        return None if _truncates(self.law) else Guess(self.law.temperature, None, 1.0)

    def verify_tree(self, logits: object, tree: Tree) -> tuple[list[int], int]:
        rows = to_numpy(self.law.scores(logits))
        path, token = matching_path(self._sample(rows), tree)
        _require_finite(rows[path[-1] if path else 0, token])
        return path, token


class TokenRule:
    """`token_rule` on the final laws, `recursive_rejection` in a tree: the right law, with fresh randomness at every step.

    Guarantee: the text has the target's law. The same seed gives the same text only with the same drafter and draft
    length.
    On a device p and q are computed there and come to the host row by row, where the coins are thrown.
    """

    chain = staticmethod(token_rule)
    tree = staticmethod(recursive_rejection)

    def __init__(self, sampling: SamplingParams, rng: RandomSource) -> None:
        self.law = sampling
        self.rng = rng

    def draw(self, logits: object, index: int) -> tuple[np.ndarray, np.ndarray]:
        scores = to_numpy(self.law.scores(logits))
        return self.rng.draw(scores), scores

    def verify(
        self, logits: object, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        if not len(drafts):
            rows = to_numpy(self.law.scores(logits))
            token = int(self.rng.draw(rows)[0])
            _require_finite(rows[0, token])
            return 0, token
        # All drafts' laws at once, in float64: the draws were made from these scores, so q must be their softmax, not a
        # float32 neighbour of it.
        q = None if scores is None else softmax(np.asarray(scores, np.float64))
        return self.chain(to_numpy(self.law.probabilities(logits)), q, drafts, self.rng)

    def draw_children(self, logits: object, path: Sequence[int], width: int) -> Children:
        scores = to_numpy(self.law.scores(logits))
        tokens = self.rng.draw_distinct(scores[0], width)
        first = STANDS + (1 - STANDS) * float(softmax(scores).max()) ** 3
        further = [(1 - first) * SECOND * (1 - SECOND) ** rank for rank in range(width)]
        return Children(tokens, [first, *further][: len(tokens)], scores)

    def guess(self, depth: int, xp: ModuleType = np) -> None:
        return None

    def verify_tree(self, logits: object, tree: Tree) -> tuple[list[int], int]:
        p = to_numpy(self.law.probabilities(logits))
        if tree.scores is None:
            return matching_path(lambda row: self.rng.choose(p[row]), tree)
        return self.tree(p, softmax(np.asarray(tree.scores, np.float64)), tree, self.rng)


class BlockRule(TokenRule):
    """`block_rule` on the final laws, `traversal` in a tree: what `TokenRule` guarantees, with more drafts accepted."""

    chain = staticmethod(block_rule)
    tree = staticmethod(traversal)


RULES = (
    "shared-noise",
    "token",
    "block",
    "match",
)  # the names the user gives; a greedy law makes them the same


def make_rule(
    name: str, sampling: SamplingParams, seed: int, vocabulary_size: int, position: int
) -> Rule:
    """The rule called `name`, for a text whose first new token has this `position`. A greedy law needs no randomness.

    Raises UserError for an unknown name.
    """
    if name not in RULES:
        raise UserError(f"unknown verification rule {name!r}: use one of {', '.join(RULES)}")
    if sampling.greedy:
        return Greedy()
    if name == "shared-noise":
        return SharedNoise(sampling, GumbelNoise(seed, vocabulary_size), position)
    return {"token": TokenRule, "block": BlockRule, "match": Match}[name](
        sampling, SeededRandomSource(seed)
    )


def _most_probable(scores: np.ndarray, width: int, sharpness: float) -> Children:
    """The tokens with the largest of (1, V) scores, of equals the lowest id first, none of -inf, which cannot be drawn. They
    are believed in as much as a softmax of `sharpness` times the scores does."""
    row = scores[0]
    order = np.argsort(-row, kind="stable")[:width]
    weights = np.exp(sharpness * (row - row[order[0]]))
    beliefs = (weights[order] / weights.sum()).tolist()
    tokens = [token for token in order.tolist() if row[token] > -np.inf]
    return Children(tokens, beliefs[: len(tokens)], None)


def _choices(logits: object) -> list[int]:
    """(R, V) logits on a device -> the most probable token of each row, -1 where its logit is no finite number."""
    return kernels.for_array(logits).choose(logits, 1.0).tolist()


def _choose(sampling: SamplingParams, logits: object, noise: object) -> object:
    """(R, V) logits and noise on a device -> int64 (R,) there, the token with the largest of score + noise of each row, -1
    where its logit is no finite number. Nothing of it waits."""
    kernel = kernels.for_array(logits)
    return (
        kernel.choose(sampling.scores(logits), 1.0, noise)
        if _truncates(sampling)
        else kernel.choose(logits, sampling.temperature, noise)
    )


def _require_number(accepted: object, token: int) -> tuple:
    """What a rule returns, unless the token is a device's -1. Raises UserError for that."""
    if token < 0:
        raise UserError(NOT_FINITE)
    return accepted, token


def _truncates(sampling: SamplingParams) -> bool:
    """Whether some tokens may not be drawn at all."""
    return sampling.top_k > 0 or sampling.top_p < 1


def _require_finite(logit: object) -> None:
    """Raises UserError for the logit of a chosen token that is no number: an argmax names a token even among NaNs."""
    if not isfinite(float(logit)):
        raise UserError(NOT_FINITE)
