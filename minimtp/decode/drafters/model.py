"""Drafting with a separate, smaller model of the same vocabulary: the first form of speculative
decoding.

Source: Leviathan et al. 2023 (2211.17192), Chen et al. 2023 (2302.01318).

The small model has its own KV cache. To draft, it is fed the committed tokens that it has not seen,
the pending one last, and then each of its own drafts except the last. So after K drafts the cache
holds K - 1 rows that are not committed. Rows of drafts that were accepted are correct and stay: the
next call keeps the rows up to the first token that differs from the committed text, and feeds the
rest. The small model needs no other information. After every round, its cache is the same as if
only the committed text had been fed.

For m committed tokens and a of K drafts accepted, min(a + 1, K) of the round's rows stay. If all
were accepted, the last draft has not been fed, and is fed first in the next call.
"""

from minimtp.backend import Array, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.cache import room_for, with_rows
from minimtp.decode.drafters.drafter import is_prompt, join_samples
from minimtp.decode.rules.rule import Rule
from minimtp.decode.target import Target
from minimtp.kernels.plain.decoding.draft_chain import draft_chain, max_probability


class ModelDrafter:
    """Drafts with `model`, which is itself a target.

    A draft ends when the product of its maximum probabilities falls below `min_confidence`. That is
    decided before the token is sampled. Beyond the model's own context length it drafts nothing.
    """

    reads_hidden = False
    stops_early = True

    def __init__(self, model: Target, max_depth: int = 8, min_confidence: float = 0.0) -> None:
        self.model = model
        self.max_depth = max_depth
        self.min_confidence = min_confidence
        room = room_for(1, model.context_length)
        self._text = np.zeros(room, np.int64)
        self._committed = 0  # tokens of the text, which may grow longer than the model's context
        self._fed = np.zeros(room, np.int64)  # the tokens of the model's rows

    def clone(self) -> "ModelDrafter":
        return ModelDrafter(self.model.clone(), self.max_depth, self.min_confidence)

    def reset(self, first_token: int) -> None:
        self.model.truncate(0)
        self._text[0], self._committed = first_token, 1

    def commit(self, hidden: Array | None, tokens: np.ndarray) -> None:
        start, self._committed = self._committed, self._committed + len(tokens)
        if self._committed > self.model.context_length:
            return
        self._text = with_rows(self._text, room_for(self._committed, self.model.context_length))
        self._text[start : self._committed] = tokens
        # Rows before `start` hold tokens that were committed earlier. The pending token's row is
        # dropped even if it was drafted and fed, because the next draft begins with the logits
        # after it.
        length = min(self.model.length, self._committed - 1)
        wrong = np.flatnonzero(self._fed[start:length] != self._text[start:length])
        self.model.truncate(start + int(wrong[0]) if len(wrong) else length)
        if is_prompt(tokens, self.max_depth):
            self._feed(self._text[self.model.length : self._committed - 1])

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        depth = min(depth, self.model.context_length - self._committed + 1)
        if depth <= 0:
            return [], None
        samples: list[tuple[Array, np.ndarray | None]] = []

        def follow(tokens: Array) -> tuple[Array, Array]:
            logits = self._feed(to_numpy(tokens))
            return logits, max_probability(logits)

        def choose(logits: Array, index: int) -> Array:
            samples.append(rule.sample(logits, index))
            return samples[-1][0]

        missing = self._text[self.model.length : self._committed]  # ends with the pending token
        draft_chain(follow, choose, missing, depth, self.min_confidence)
        return join_samples(samples)

    def _feed(self, tokens: np.ndarray) -> Array:
        """Feed the tokens (R,). Return the logits (1, V) after the last one."""
        stop = self.model.length + len(tokens)
        self._fed = with_rows(self._fed, room_for(stop, self.model.context_length))
        self._fed[self.model.length : stop] = tokens
        for start in range(0, len(tokens), self.model.max_rows):
            logits = self.model.forward(tokens[start : start + self.model.max_rows]).logits
        return logits[-1:]
