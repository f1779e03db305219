"""Drafting with a separate, smaller model of the same vocabulary: the first form of speculative decoding (Leviathan et al.
2023, 2211.17192; Chen et al. 2023, 2302.01318).

The small model has a cache of its own. To draft it is fed the committed tokens it has not seen, the pending one last, and
then each of its own drafts but the last, so after K drafts it holds K - 1 rows that nobody has committed to. Those that
verification accepted are right and stay: the next call keeps the rows up to the first token that differs from the committed
text and feeds the rest. Nothing else has to be told to it, and after every round its cache is what feeding the committed
text would have made of it.

For m committed tokens and a of K drafts accepted that leaves min(a + 1, K) of the round's rows; when all were accepted, the
last draft has not been fed, and goes first next time.
"""

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.verify import Rule
from minimtp.decode.target import Target


class ModelDrafter:
    """Drafts with `model`, a target of its own.

    It stops where it does not believe in its draft: where the product of its largest probabilities falls below
    `least_confidence`, which is decided before the token is drawn. Beyond the model's own context it drafts nothing.
    """

    reads_hidden, stops_early = False, True

    def __init__(self, model: Target, max_depth: int = 8, min_confidence: float = 0.0) -> None:
        self.model = model
        self.max_depth = max_depth
        self.min_confidence = min_confidence
        self._text = np.zeros(model.context_length, np.int64)
        self._committed = 0  # tokens of the text, which may grow longer than what fits
        self._fed = np.zeros(model.context_length, np.int64)  # the tokens of the model's rows

    def clone(self) -> "ModelDrafter":
        return ModelDrafter(self.model.clone(), self.max_depth, self.min_confidence)

    def reset(self, first_token: int) -> None:
        self.model.truncate(0)
        self._text[0], self._committed = first_token, 1

    def commit(self, hidden: object | None, tokens: np.ndarray) -> None:
        start, self._committed = self._committed, self._committed + len(tokens)
        if self._committed > self.model.context_length:
            return
        self._text[start : self._committed] = tokens
        # Rows before `start` hold what was committed earlier. The pending token is not kept among the rows even where it was
        # drafted and fed: the next draft begins with the logits behind it.
        length = min(self.model.length, self._committed - 1)
        wrong = np.flatnonzero(self._fed[start:length] != self._text[start:length])
        self.model.truncate(start + int(wrong[0]) if len(wrong) else length)
        if (
            len(tokens) > self.max_depth + 1
        ):  # the prompt: run at once, so that its cost is not counted as drafting
            self._feed(self._text[self.model.length : self._committed - 1])

    def draft(self, depth: int, rule: Rule) -> tuple[Array, np.ndarray | None]:
        depth = min(depth, self.model.context_length - self._committed + 1)
        if depth <= 0:
            return [], None
        logits = self._feed(self._text[self.model.length : self._committed])
        tokens, scores, confidence = [], [], 1.0
        for index in range(depth):
            if self.min_confidence:
                confidence *= _largest_probability(logits)
                if confidence < self.min_confidence:
                    break
            token, score = rule.draw(logits, index)
            tokens.append(token)
            scores.append(score)
            if index + 1 < depth:
                logits = self._feed(to_numpy(token))
        if not tokens:
            return [], None
        return array_module(tokens[0]).concatenate(tokens), None if scores[
            0
        ] is None else np.concatenate(scores)

    def _feed(self, tokens: np.ndarray) -> Array:
        """Feed (R,) tokens; the logits (1, V) behind the last."""
        self._fed[self.model.length : self.model.length + len(tokens)] = tokens
        return self.model.forward(tokens).logits[-1:]


def _largest_probability(logits: Array) -> float:
    row = logits[0]
    return float(1.0 / array_module(row).exp(row - row.max()).sum())
