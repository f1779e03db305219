"""Let a model write: sample the next token from its probabilities, append it, repeat."""

from collections.abc import Callable

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.model.tokenizer import Tokenizer

PROMPT = "import sys\n\ndef "


def write(
    logits_of: Callable[[np.ndarray], Array], tokenizer: Tokenizer, count: int = 160, seed: int = 0
) -> str:
    """Return the prompt, continued by `count` sampled tokens.

    logits_of: tokens (1, T) -> logits (V,) of the token after them.
    """
    rng, tokens = np.random.default_rng(seed), tokenizer.encode(PROMPT).tolist()
    for _ in range(count):
        with no_grad():
            logits = to_numpy(logits_of(np.array([tokens]))).astype(np.float64)
        p = np.exp(logits - logits.max())  # softmax
        tokens.append(int(rng.choice(len(p), p=p / p.sum())))
    return tokenizer.decode(tokens)
