"""Compare greedy drafted text with plain decoding, token by token.

With compiled kernels the two must be equal. On the plain kernels BLAS rounds the product of one row
differently from the product of eight rows. Then a drafted text may diverge from the plain text if
the two best logits differ by less than the rounding error. Such ties are counted. Any other
difference is an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from minimtp import kernels
from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.bench.interleaved import Variant
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.errors import MeasurementFailed

# The limit relative to the largest logit: about a hundred float32 roundings of a sum of a few
# hundred products.
TIE = 1e-4


class Disagreement(MeasurementFailed):
    """Speculative decoding did not generate the text of plain decoding. The message lists every
    difference.
    """


@dataclass
class Agreement:
    """The number of greedy texts that equal plain decoding with the same target."""

    texts: int = 0
    equal: int = 0
    ties: int = 0  # texts that diverged at a tie: the two best logits differ only by rounding
    wrong: list[str] = field(default_factory=list)  # a sentence per other difference


def batch_invariant(device: str) -> bool:
    """Return whether the kernels that run on the device are batch-invariant: a row has the same
    bits alone and among others. Then drafted and plain text have no ties.
    """
    return kernels.describe(device)[0] == "cpu"


def check_greedy_texts(
    variant: Variant,
    prompts: Sequence[np.ndarray],
    texts: Sequence[Sequence[int]],
    allow_ties: bool,
    plain: Sequence[Sequence[int]] | None = None,
) -> Agreement:
    """Decode each prompt plainly with the variant's own target and compare with `texts`.

    allow_ties: count a text that diverges at a tie of the two best logits as a tie. Without it,
    such a text is wrong. plain: the texts of plain decoding, if they are known already.
    """
    agreement = Agreement()
    for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        agreement.texts += 1
        expected = _plain(variant, prompt, len(text)) if plain is None else list(plain[index])
        if expected == list(text):
            agreement.equal += 1
            continue
        pairs = enumerate(zip_longest(expected, text))
        place = next(i for i, (a, b) in pairs if a != b)
        margin = _margin(variant, text[:place])
        if allow_ties and margin <= TIE:
            agreement.ties += 1
        else:
            agreement.wrong.append(
                f"{variant.name}: token {place} of a text is {_at(text, place)}, plain decoding "
                f"gives {_at(expected, place)}, and the two best logits differ by {margin:.2g} of "
                "the largest logit"
            )
    return agreement


def require_no_differences(agreements: Sequence[Mapping[str, Any]]) -> None:
    """Raise Disagreement if drafted texts differ. agreements: fields of `Agreement` by name."""
    wrong = [sentence for found in agreements for sentence in found["wrong"]]
    if wrong:
        message = "drafted texts differ from plain decoding, which is a defect of minimtp:"
        raise Disagreement("\n".join([message, *wrong]))


def _plain(variant: Variant, prompt: np.ndarray, length: int) -> list[int]:
    """Return the greedy text of the variant's target without drafts, `length` tokens long."""
    options = GenerationOptions(max_new_tokens=length - len(prompt))
    generation = start_generation(variant.target, None, prompt, options)
    for _ in generation:
        pass
    return generation.tokens


def _at(text: Sequence[int], place: int) -> str:
    return str(text[place]) if place < len(text) else "the end"


def _margin(variant: Variant, tokens: Sequence[int]) -> float:
    """Return the difference of the two best logits after `tokens`, relative to the largest absolute
    logit.
    """
    variant.target.truncate(0)
    logits = np.sort(to_numpy(variant.target.forward(np.asarray(tokens)).logits[-1]))
    return float(logits[-1] - logits[-2]) / max(1.0, float(np.abs(logits).max()))
