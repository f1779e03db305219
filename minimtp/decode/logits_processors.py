"""Laws that depend on the text so far, such as a penalty on what was said before.

A processor changes the logits before they become a law:

    processor(logits (R, V), text (N,)) -> (R, V)        row j is about the token that follows text[: N - R + 1 + j]

so R rows are about the last R - 1 tokens of the text and the one behind it. That is what verification needs: row j of a round
is conditioned on the drafts d_1 .. d_j, and a processor that does not see them gives another law than plain decoding does.
A row must depend on its own logits and its own part of the text only.

`Processed` puts processors around any verification rule. The rule then sees processed logits on both sides, when it draws
drafts and when it judges them, and what is proved of it holds for the processed law: the drafts are drawn from exactly the
scores that verification is told. Where a drafter asks for several drafts at once, none knows the others; so its rows see the
committed text alone, which costs acceptance and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.decode.rules.trees import Tree
from minimtp.decode.rules.verify import Children, Rule
from minimtp.errors import UserError

LogitsProcessor = Callable[[Array, np.ndarray], Array]


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes every token of the text so far, prompt included, less likely: logits z > 0 become z / penalty, others z * penalty.

    Source: Keskar et al. 2019 (CTRL, 1909.05858), section 4.1, with the sign handled so that a penalty above 1 always lowers
    (a quotient alone would raise negative logits). 1 changes nothing; below 1 repetition is encouraged.
    Raises UserError for a penalty that is not a number above 0.
    """

    penalty: float

    def __post_init__(self) -> None:
        if not (isinstance(self.penalty, int | float) and 0 < self.penalty < float("inf")):
            raise UserError(
                f"a repetition penalty is a number above 0 (1 changes nothing), not {self.penalty!r}"
            )

    def __call__(self, logits: Array, text: np.ndarray) -> Array:
        xp, rows = array_module(logits), len(logits)
        known = len(text) - rows + 1  # tokens that the first row has seen
        said = np.zeros(logits.shape, bool)
        said[:, text[:known]] = True
        for row in range(1, rows):
            said[row:, text[known + row - 1]] = True
        return xp.where(
            xp.asarray(said),
            xp.where(logits > 0, logits / self.penalty, logits * self.penalty),
            logits,
        )


class ProcessedRule:
    """A rule of verify.py whose laws are processed; it follows the text, from the prompt on, by what it verifies.

    prompt: (P,) integers. longest: of the whole text, prompt and drafts included.
    """

    def __init__(
        self,
        rule: Rule,
        logits_processors: Sequence[LogitsProcessor],
        prompt: np.ndarray,
        longest: int,
    ) -> None:
        self.rule = rule
        self.logits_processors = list(logits_processors)
        self._text = np.zeros(longest, np.int64)
        self._text[: len(prompt)] = prompt
        self._committed = len(prompt)

    def draw(self, logits: Array, index: int) -> tuple[Array, np.ndarray | None]:
        known = self._committed + index
        rows = [
            self._process(logits[row : row + 1], self._text[:known]) for row in range(len(logits))
        ]
        tokens, scores = self.rule.draw(array_module(logits).concatenate(rows), index)
        self._text[known : known + len(rows)] = to_numpy(tokens)
        return tokens, scores

    def verify(
        self, logits: Array, drafts: Sequence[int], scores: np.ndarray | None
    ) -> tuple[int, int]:
        start = self._committed
        self._text[start : start + len(drafts)] = drafts
        logits = self._process(logits, self._text[: start + len(drafts)])
        accepted, token = self.rule.verify(logits, drafts, scores)
        self._committed = start + accepted + 1
        self._text[start + accepted] = token
        return accepted, token

    def guess(self, depth: int, xp: ModuleType = np) -> None:
        """Each draft's logits are processed with those before it, so `draw` has to be asked."""
        return None

    def draw_children(self, logits: Array, path: Sequence[int], width: int) -> Children:
        return self.rule.draw_children(self._process(logits, self._text_with(path)), path, width)

    def verify_tree(self, logits: Array, tree: Tree) -> tuple[list[int], int]:
        rows = []
        for row in range(len(tree.tokens)):
            drafted = [tree.tokens[above] for above in tree.path_to(row)]
            rows.append(self._process(logits[row : row + 1], self._text_with(drafted)))
        path, token = self.rule.verify_tree(array_module(logits).concatenate(rows), tree)
        self._text_with([*(tree.tokens[row] for row in path), token])
        self._committed += len(path) + 1
        return path, token

    def _text_with(self, drafted: Sequence[int]) -> np.ndarray:
        """The committed text and these drafts behind it."""
        stop = self._committed + len(drafted)
        self._text[self._committed : stop] = drafted
        return self._text[:stop]

    def _process(self, logits: Array, text: np.ndarray) -> Array:
        for processor in self.logits_processors:
            logits = processor(logits, text)
        return logits
