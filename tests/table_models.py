"""Models small enough to know everything about: the decoder is tested on them, so its tests need no weights.

`TableTarget` draws the logits of every prefix from a seed. `ScriptedDice` replaces the randomness of the decoder by a script,
and `every_outcome` runs a function under every possible script: the exact probability of each of its results, from the
decoder's own code.
"""

from types import SimpleNamespace

import numpy as np

from minimtp.decode.rules.tree import Tree
from minimtp.decode.sampling import softmax


class TableTarget:
    """Logits that depend on the whole prefix, and a cache that is the list of tokens fed: what a model is to the decoder."""

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
        hidden = np.array(
            [[stop - 1, self.cache[stop - 1]] for stop in rows]
        )  # (T, 2): position and token of the row
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
    """What the target says at temperature 0, without any of the decoder's code."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(target.logits(tokens))))
    return tokens[len(prompt) :]


class ScriptedDice:
    """Dice whose answers are given: `script` holds the answer to each question, 0 beyond its end."""

    def __init__(self, script):
        self.script, self.asked, self.probability = script, [], 1.0

    def _answer(self, probabilities):
        options = [index for index, probability in enumerate(probabilities) if probability > 0]
        choice = self.script[len(self.asked)] if len(self.asked) < len(self.script) else 0
        self.asked.append((choice, len(options)))
        self.probability *= float(probabilities[options[choice]])
        return options[choice]

    def happens(self, probability):
        probability = min(1.0, probability)
        return self._answer([probability, 1 - probability]) == 0

    def choose(self, law):
        return self._answer(law)

    def sample(self, scores):
        return np.array([self._answer(row) for row in softmax(scores)])

    def sample_distinct(self, scores, count):
        tokens, law = [], softmax(scores[None])[0]
        while len(tokens) < count and law.any():
            tokens.append(self._answer(law / law.sum()))
            law[tokens[-1]] = 0.0
        return tokens


def every_outcome(run):
    """{result: probability} of run(dice), by answering its questions in every way that has a probability."""
    outcomes, script = {}, []
    while script is not None:
        rng = ScriptedDice(script)
        result = run(rng)
        outcomes[result] = outcomes.get(result, 0.0) + rng.probability
        while rng.asked and rng.asked[-1][0] + 1 == rng.asked[-1][1]:
            rng.asked.pop()
        script = (
            [choice for choice, _ in rng.asked[:-1]] + [rng.asked[-1][0] + 1] if rng.asked else None
        )
    return outcomes


def total_variation(first, second):
    """Half the summed difference of two {result: probability} tables."""
    return (
        sum(abs(first.get(key, 0.0) - second.get(key, 0.0)) for key in first.keys() | second.keys())
        / 2
    )
