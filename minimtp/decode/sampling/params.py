"""From logits to the distribution that a token is sampled from.

A model's logits z become the *sampling distribution* p in three steps, in this order. Each step
ends with a distribution:

    1. temperature    p proportional to exp(z / T)
                      T = 0 is the limit: the largest logit gets probability 1
    2. top-k          keep the k most likely tokens, renormalize
    3. top-p          keep the most likely tokens until their probabilities reach p, renormalize
                      (nucleus sampling, Holtzman et al. 2019, 1904.09751)

Everything that verifies drafts works with this distribution. Verifying against the distribution
before truncation is a real bug with a large effect (total variation 0.3 in our tests), so no other
file of this package turns logits into probabilities.

Choices: ties go to the lowest token id, in the argmax and at the edges of top-k and top-p, so the
distribution is a function of the logits alone. T = 0 never divides: it is an argmax. Probabilities
are float64 for logits of any type, because exactness is proved to 1e-12 and V numbers per token are
cheap.
"""

from dataclasses import dataclass

from minimtp import kernels
from minimtp.arguments import check_fields, number, whole
from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.errors import UserError

TEMPERATURE = number("0 (greedy), or from 1e-6 to 1e6", lambda t: t == 0 or 1e-6 <= t <= 1e6)
TOP_K = whole(0, meaning="0 keeps every token")
TOP_P = number("above 0 and at most 1 (1 keeps every token)", lambda p: 0 < p <= 1)


@dataclass(frozen=True)
class SamplingParams:
    """How logits become probabilities. The default is the model's own distribution.

    temperature: 0 (greedy), or from 1e-6 to 1e6. top_k: number of most likely tokens to keep, 0
    keeps all. top_p: probability that the kept tokens must reach together, 1 keeps all.

    Logits up to a magnitude of 1e25 do not overflow at any of these temperatures, also after a
    penalty. Larger ones may, and then count as not finite: sampling raises UserError.
    Raises UserError if a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P)

    @property
    def greedy(self) -> bool:
        """Whether one token gets probability 1, so that no random numbers are needed."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def shaping(self) -> tuple[float, int, float]:
        """Return temperature, top_k and top_p, as the kernels take them; not if greedy."""
        return self.temperature, self.top_k, self.top_p

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p may exclude tokens."""
        return self.top_k > 0 or self.top_p < 1

    def scores(self, logits: Array) -> Array:
        """Return the logarithms of the probabilities, up to a constant per row: (R, V) -> (R, V).

        An excluded token has -inf.
        """
        xp = array_module(logits)
        if self.greedy:
            scores = xp.full_like(logits, -xp.inf)
            scores[xp.arange(len(logits)), logits.argmax(axis=-1)] = 0  # argmax: ties to the lowest
            return scores
        with np.errstate(over="ignore"):
            scores = logits if self.temperature == 1 else logits / self.temperature
        return kernels.for_array(scores).truncate(scores, self.top_k, self.top_p)

    def probabilities(self, logits: Array) -> Array:
        """Return the probabilities (R, V), float64, of logits (R, V) of any float type.

        Raises UserError if the maximum of a row is not finite, because then the model is broken.
        """
        xp = array_module(logits)
        if self.greedy:
            _finite_maxima(logits)
            return xp.exp(self.scores(logits), dtype=xp.float64)
        return softmax(self.scores(logits))


GREEDY = SamplingParams(temperature=0.0)
NOT_FINITE = (
    "the model's output is not a number: its training diverged or its file is damaged, use another "
    "checkpoint"
)


def softmax(scores: Array) -> Array:
    """Return the softmax (R, V), float64, of scores (R, V).

    Exponentials are computed in the scores' precision, sums in float64.
    Raises UserError if the maximum of a row is not finite.
    """
    xp = array_module(scores)
    weights = xp.exp(scores - _finite_maxima(scores)).astype(xp.float64)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _finite_maxima(rows: Array) -> Array:
    """Return the maxima (R, 1) of rows (R, V). Raises UserError if one is infinite or NaN."""
    xp = array_module(rows)
    maxima = rows.max(axis=-1, keepdims=True)
    if not bool(xp.isfinite(maxima).all()):
        raise UserError(NOT_FINITE)
    return maxima
