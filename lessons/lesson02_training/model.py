"""The smallest language model that is worth training: the last few bytes, through two products, to the next one."""

from minimtp.backend import numpy as np
from minimtp.engine.fused import CrossEntropy
from minimtp.engine.module import Module
from minimtp.engine.ops import SiLU, concatenate
from minimtp.engine.tensor import Array, Tensor
from minimtp.model.layers import Embedding, Linear

SEEN = 8  # bytes that a prediction depends on


class WindowModel(Module):
    """What follows each window of SEEN bytes (Bengio et al. 2003): tokens (B, T) -> logits (B, T - SEEN + 1, V)."""

    def __init__(self, vocabulary: int, width: int, hidden: int, rng: np.random.Generator) -> None:
        self.embedding = Embedding(vocabulary, width, rng)
        self.inner = Linear(SEEN * width, hidden, rng)
        self.output = Linear(hidden, vocabulary, rng, start_at_zero=True)

    def __call__(self, tokens: Array) -> Tensor:
        vectors = self.embedding(tokens)  # (B, T, D)
        count = tokens.shape[1] - SEEN + 1
        window = concatenate(*(vectors[:, i : i + count] for i in range(SEEN)))  # (B, count, SEEN * D)
        return self.output(SiLU().apply(self.inner(window)))

    def loss(self, tokens: Array) -> Tensor:
        """Mean nats of every byte of (B, T + 1) tokens that has SEEN bytes before it."""
        targets = tokens[:, SEEN:].reshape(-1)
        logits = self(tokens[:, :-1])
        return CrossEntropy(targets).apply(logits.reshape(targets.size, logits.shape[-1])).mean()
