"""Choosing tokens from rows of logits."""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled


def choose(logits, temperature, noise=None):
    # NumPy's argmax uses vector instructions, a loop compiled by Numba does not: 5 times slower at
    # 50,000 tokens.
    scores = logits if temperature == 1 else logits / temperature
    tokens = (scores if noise is None else scores + noise).argmax(axis=-1)
    _mark_non_finite(scores, tokens)
    return tokens


@compiled
def _mark_non_finite(scores, tokens):
    for row in range(tokens.shape[0]):
        if not np.isfinite(scores[row, tokens[row]]):
            tokens[row] = -1
