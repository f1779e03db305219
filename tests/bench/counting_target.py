"""A target that predicts t + 1 after token t, and a drafter that is always right."""

from types import SimpleNamespace

from minimtp.backend import numpy as np

PROMPTS = [np.array([1, 2]), np.array([7, 8, 9])]


class CountingTarget:
    """Predicts t + 1 after t. At position `wrong_at` a pass over several tokens predicts 0 instead.

    margin: the logit of the wrong token minus the logit of the right one at that position.
    """

    vocabulary_size, context_length, max_rows = 50, 40, 40

    def __init__(self, wrong_at=None, margin=1.0):
        self.tokens, self.wrong_at, self.margin = [], wrong_at, margin

    @property
    def length(self):
        return len(self.tokens)

    def truncate(self, length):
        del self.tokens[length:]

    def forward(self, tokens):
        start = len(self.tokens)
        self.tokens += tokens.tolist()
        logits = np.zeros((len(tokens), self.vocabulary_size))
        for row, token in enumerate(tokens):
            logits[row, (token + 1) % self.vocabulary_size] = 1.0
            if start + row == self.wrong_at:
                logits[row, 0] = 1.0 + (self.margin if len(tokens) > 1 else -self.margin)
        return SimpleNamespace(logits=logits, hidden=np.zeros((len(tokens), 1)))


class CountingDrafter:
    """Drafts the tokens that the counting target predicts."""

    max_depth, min_confidence, reads_hidden = 4, 0.0, False

    def reset(self, first_token):
        self.last = first_token

    def commit(self, hidden, tokens):
        self.last = int(tokens[-1])

    def draft(self, depth, rule):
        return [(self.last + 1 + i) % CountingTarget.vocabulary_size for i in range(depth)], None
