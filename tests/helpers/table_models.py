"""Models given by a table of logits, so tests of the decoder need no weights.

`TableTarget` derives the logits after every prefix from a seed. `ScriptedRandomSource` replaces
the random numbers of the decoder by a script, and `every_outcome` runs a function with every
possible script. So the code of the decoder itself gives the exact probability of each result.
"""

from types import SimpleNamespace

import numpy as np

from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling.params import softmax


class TableTarget:
    """A target whose logits depend on the whole prefix. Its cache is the list of tokens fed."""

    def __init__(self, vocabulary_size=4, context_length=32, seed=0, sharpness=2.0):
        self.vocabulary_size, self.context_length = vocabulary_size, context_length
        self.seed, self.sharpness = seed, sharpness
        self.cache, self.table = [], {}
        self.max_rows = context_length

    @property
    def length(self):
        return len(self.cache)

    def logits(self, prefix):
        prefix = tuple(int(token) for token in prefix)
        if prefix not in self.table:
            random = np.random.default_rng([self.seed, len(prefix), *prefix])
            self.table[prefix] = self.sharpness * random.standard_normal(self.vocabulary_size)
        return self.table[prefix]

    def forward(self, tokens):
        assert len(tokens) > 0
        assert self.length + len(tokens) <= self.context_length, (
            "a token was fed beyond the context"
        )
        start = self.length
        self.cache += [int(token) for token in tokens]
        rows = range(start + 1, self.length + 1)
        # Each row's hidden state is its position and its token, (T, 2).
        hidden = np.array([[stop - 1, self.cache[stop - 1]] for stop in rows])
        return SimpleNamespace(
            logits=np.array([self.logits(self.cache[:stop]) for stop in rows]), hidden=hidden
        )

    def clone(self):
        return TableTarget(self.vocabulary_size, self.context_length, self.seed, self.sharpness)

    def forward_tree(self, tokens, depths):
        assert self.length + max(depths) < self.context_length, "a token was fed beyond the context"
        self.tree = tree = Tree(tokens, depths)
        paths = [[0, *tree.path_to(row)] for row in range(len(tree.tokens))]
        texts = [[*self.cache, *(int(tree.tokens[row]) for row in path)] for path in paths]
        hidden = np.array([[len(text) - 1, text[-1]] for text in texts])
        return SimpleNamespace(
            logits=np.array([self.logits(text) for text in texts]), hidden=hidden
        )

    def keep(self, rows):
        assert rows[0] == 0 and all(
            self.tree.parents[b] == a for a, b in zip(rows, rows[1:], strict=False)
        )
        self.cache += [int(self.tree.tokens[row]) for row in rows]

    def truncate(self, length):
        assert 0 <= length <= self.length
        del self.cache[length:]


def greedy_text(target, prompt, count):
    """Return the greedy output of the target, computed without the code of the decoder."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(target.logits(tokens))))
    return tokens[len(prompt) :]


ROUNDING = 1e-12  # choices with a smaller probability are caused by rounding


class ScriptedRandomSource:
    """A `RandomSource` whose choices come from `script`. After its end, every choice is 0."""

    def __init__(self, script):
        self.script, self.asked, self.probability = script, [], 1.0

    def _answer(self, probabilities):
        options = [index for index, probability in enumerate(probabilities) if probability > 0]
        assert options, f"none of these probabilities is above 0: {probabilities}"
        choice = self.script[len(self.asked)] if len(self.asked) < len(self.script) else 0
        assert choice < len(options), (
            "with the same random choices, a second call asked for others: all randomness must "
            "come from rng"
        )
        self.asked.append((choice, len(options)))
        self.probability *= float(probabilities[options[choice]])
        return options[choice]

    def points(self, count):
        return None  # every decision is asked for

    def happens(self, probability):
        probability = min(1.0, probability)
        return self._answer([probability, 1 - probability]) == 0

    def choose(self, distribution):
        """As the real source does, accept weights of any sum. Only rounding may lead to sum 0."""
        weights = np.asarray(distribution)
        assert (weights >= 0).all(), f"choose got negative numbers or nan (0 / 0): {weights}"
        if not weights.any() and self.probability < ROUNDING:
            return 0
        return self._answer(weights / weights.sum() if weights.any() else weights)

    def sample(self, scores):
        return np.array([self._answer(row) for row in softmax(scores)])

    def sample_distinct(self, scores, count):
        tokens, left = [], softmax(scores[None])[0]
        while len(tokens) < count and left.any():
            tokens.append(self._answer(left / left.sum()))
            left[tokens[-1]] = 0.0
        return tokens


def every_outcome(run):
    """Return {result: probability} of run(rng) over all possible random choices."""
    outcomes, script = {}, []
    while script is not None:
        rng = ScriptedRandomSource(script)
        result = run(rng)
        outcomes[result] = outcomes.get(result, 0.0) + rng.probability
        while rng.asked and rng.asked[-1][0] + 1 == rng.asked[-1][1]:
            rng.asked.pop()
        script = None
        if rng.asked:
            script = [*(choice for choice, _ in rng.asked[:-1]), rng.asked[-1][0] + 1]
    return outcomes


def exact_distribution(target, sampling, prompt, max_new_tokens, stop=()):
    """Return {new tokens: probability} of sampling without drafts.

    It multiplies the probabilities after each prefix.
    """
    texts = {}

    def extend(text, probability):
        if len(text) == max_new_tokens or (text and text[-1] in stop):
            texts[tuple(text)] = probability
            return
        logits = target.logits([*prompt, *text])[None]
        for token, share in enumerate(sampling.probabilities(logits)[0]):
            if share > 0:
                extend([*text, token], probability * share)

    extend([], 1.0)
    return texts


def total_variation(first, second):
    """Return the total variation distance of two {result: probability} tables."""
    results = first.keys() | second.keys()
    return sum(abs(first.get(result, 0.0) - second.get(result, 0.0)) for result in results) / 2
