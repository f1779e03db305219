"""A minimal language model: it predicts the next byte from the last few, with two linear layers."""

from minimtp.backend import Array
from minimtp.backend import numpy as np
from minimtp.engine.fused import CrossEntropy
from minimtp.engine.module import Module
from minimtp.engine.ops import SiLU, concatenate
from minimtp.engine.tensor import Tensor
from minimtp.model.layers import Embedding, Linear


class WindowModel(Module):
    """Predict the byte after each window of `seen` bytes (Bengio et al. 2003).

    tokens (B, T) -> logits (B, T - seen + 1, V).
    """

    def __init__(
        self, vocabulary: int, width: int, hidden: int, seen: int, rng: np.random.Generator
    ) -> None:
        self.embedding = Embedding(vocabulary, width, rng)
        self.inner = Linear(seen * width, hidden, rng)
        self.output = Linear(hidden, vocabulary, rng, zero_init=True)
        self.seen = seen

    def __call__(self, tokens: Array) -> Tensor:
        vectors = self.embedding(tokens)  # (B, T, width)
        n = tokens.shape[1] - self.seen + 1
        slices = (vectors[:, i : i + n] for i in range(self.seen))  # slice i: byte i of each window
        window = concatenate(*slices)  # (B, n, seen * width)
        return self.output(SiLU().apply(self.inner(window)))

    def next_logits(self, tokens: Array) -> Array:
        """tokens (1, T) with T >= seen -> the logits (V,) of the token after them."""
        return self(tokens[:, -self.seen :]).data[0, -1]

    def loss(self, tokens: Array) -> Tensor:
        """Return the mean loss in nats over all bytes of (B, T + 1) tokens with `seen` bytes before
        them.
        """
        targets = tokens[:, self.seen :].reshape(-1)
        logits = self(tokens[:, :-1])
        return CrossEntropy(targets).apply(logits.reshape(targets.size, logits.shape[-1])).mean()
