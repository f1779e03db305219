"""Compare greedy drafted text with plain decoding, token by token.

With compiled kernels the two must be equal. On the plain kernels BLAS rounds the product of one row
differently from the product of eight rows. Then a drafted text may diverge from the plain text if
the two best logits differ by less than the rounding error. Such ties are counted. Any other
difference is an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from minimtp.backend import numpy as np
from minimtp.backend import to_numpy
from minimtp.bench.interleaved import Variant
from minimtp.decode.options import GenerationOptions, start_generation

# The limit relative to the largest logit: about a hundred float32 roundings of a sum of a few
# hundred products.
TIE = 1e-4


@dataclass
class Agreement:
    """The number of greedy texts that equal plain decoding with the same target."""

    texts: int = 0
    equal: int = 0
    ties: int = 0  # texts that diverged at a tie: the two best logits differ only by rounding
    wrong: list[str] = field(default_factory=list)  # a sentence per other difference


def check_greedy_texts(
    variant: Variant,
    prompts: Sequence[np.ndarray],
    texts: Sequence[Sequence[int]],
    allow_ties: bool,
) -> Agreement:
    """Decode each prompt plainly with the variant's own target and compare with `texts`.

    allow_ties: count a text that diverges at a tie of the two best logits as a tie. Without it,
    such a text is wrong.
    """
    agreement = Agreement()
    for prompt, text in zip(prompts, texts, strict=True):
        agreement.texts += 1
        plain = start_generation(
            variant.target, None, prompt, GenerationOptions(max_new_tokens=len(text) - len(prompt))
        )
        for _ in plain:
            pass
        if plain.tokens == list(text):
            agreement.equal += 1
            continue
        pairs = zip(plain.tokens, text, strict=False)
        place = next(i for i, (a, b) in enumerate(pairs) if a != b)
        margin = _margin(variant, text[:place])
        if allow_ties and margin <= TIE:
            agreement.ties += 1
        else:
            agreement.wrong.append(
                f"{variant.name}: token {place} of a text is {text[place]}, plain decoding gives "
                f"{plain.tokens[place]}, and the two best logits differ by {margin:.2g} of the "
                "largest logit"
            )
    return agreement


def _margin(variant: Variant, tokens: Sequence[int]) -> float:
    """Return the difference of the two best logits after `tokens`, relative to the largest absolute
    logit.
    """
    variant.target.truncate(0)
    logits = np.sort(to_numpy(variant.target.forward(np.asarray(tokens)).logits[-1]))
    return float(logits[-1] - logits[-2]) / max(1.0, float(np.abs(logits).max()))
