"""Distributions that depend on the text so far, such as a penalty on tokens that already occurred.

A processor changes logits before they become a distribution:

    processor(logits (R, V), text (N,)) -> (R, V)

Row j predicts the token after text[: N - R + 1 + j].

So R rows predict the last R - 1 tokens of the text and the token after it. Verification needs this:
row j of a round is conditioned on the drafts d_1 .. d_j, and a processor that does not see them
gives another distribution than plain decoding. A row must depend on its own logits and its own part
of the text only.

`ProcessedRule` applies processors to the logits of any verification rule, both when it samples
drafts and when it verifies them. So the drafts are sampled from exactly the scores that
verification gets, and the rule's guarantee holds for the processed distribution. If a drafter
samples several drafts at the same time, they are independent of each other. Its rows are then
processed with the committed text alone, which lowers acceptance and changes nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from minimtp.arguments import check_fields, number
from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.rule import Children, Coupling, Rule, Scores
from minimtp.decode.rules.tree import Tree

LogitsProcessor = Callable[[Array, np.ndarray], Array]
PENALTY = number("from 0.001 to 1000 (1 changes nothing)", lambda p: 1e-3 <= p <= 1e3)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes every token of the text so far, including the prompt, less likely.

    Logits z > 0 of these tokens become z / penalty, others z * penalty. A penalty of 1 changes
    nothing, below 1 it encourages repetition.
    Source: Keskar et al. 2019 (CTRL, 1909.05858), section 4.1. The paper divides all logits, which
    would raise negative ones.
    Raises UserError if the penalty is not a number from 0.001 to 1000.
    """

    penalty: float

    def __post_init__(self) -> None:
        check_fields(self, penalty=PENALTY)

    def __call__(self, logits: Array, text: np.ndarray) -> Array:
        known = len(text) - len(logits) + 1  # tokens that the first row has seen
        result, seen = logits.copy(), array_module(logits).asarray(text[:known])
        result[:, seen] = self._penalized(logits[:, seen])
        for row, token in enumerate(text[known:].tolist(), 1):
            result[row:, token] = self._penalized(logits[row:, token])
        return result

    def _penalized(self, logits: Array) -> Array:
        with np.errstate(over="ignore"):  # infinite: the rule that samples finds it
            return array_module(logits).where(
                logits > 0, logits / self.penalty, logits * self.penalty
            )


class ProcessedRule:
    """A verification rule on processed logits. It keeps track of the text by the drafts that it
    verifies.

    prompt: (P,) integers. max_length: length of the whole text, including prompt and drafts.
    """

    def __init__(
        self,
        rule: Rule,
        logits_processors: Sequence[LogitsProcessor],
        prompt: np.ndarray,
        max_length: int,
    ) -> None:
        self.rule = rule
        self.logits_processors = list(logits_processors)
        self._text = np.zeros(max_length, np.int64)
        self._text[: len(prompt)] = prompt
        self._committed = len(prompt)

    @property
    def coupling(self) -> Coupling:
        return self.rule.coupling

    def sample(self, logits: Array, index: int) -> tuple[Array, np.ndarray | None]:
        known = self._committed + index
        text = self._text[:known]
        rows = [self._process(logits[row : row + 1], text) for row in range(len(logits))]
        tokens, scores = self.rule.sample(array_module(logits).concatenate(rows), index)
        self._text[known : known + len(rows)] = to_numpy(tokens)
        return tokens, scores

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: Scores | None
    ) -> tuple[int, int]:
        start = self._committed
        logits = self._process(logits, self._text_with(drafts))
        accepted, token = self.rule.verify(logits, drafts, scores)
        self._committed = start + accepted + 1
        self._text[start + accepted] = token
        return accepted, token

    def sample_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        processed = self._process(logits, self._text_with(path))
        return self.rule.sample_children(processed, path, width)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        rows = []
        for row in range(len(tree.tokens)):
            drafted = [tree.tokens[above] for above in tree.path_to(row)]
            rows.append(self._process(logits[row : row + 1], self._text_with(drafted)))
        path, token = self.rule.verify_tree(array_module(logits).concatenate(rows), tree)
        self._text_with([*(tree.tokens[row] for row in path), token])
        self._committed += len(path) + 1
        return path, token

    def perturbed_argmax(self, depth: int, xp: ModuleType = np) -> None:
        """Return None: the logits of a draft depend on the drafts before it, so `sample` has to be
        called.
        """
        return None

    def softmax_points(self, depth: int) -> None:
        """Return None, for the same reason."""
        return None

    def _text_with(self, drafted: Sequence[int]) -> np.ndarray:
        """Return the committed text followed by these drafts."""
        stop = self._committed + len(drafted)
        self._text[self._committed : stop] = drafted
        return self._text[:stop]

    def _process(self, logits: Array, text: np.ndarray) -> Array:
        for processor in self.logits_processors:
            logits = processor(logits, text)
        return logits
