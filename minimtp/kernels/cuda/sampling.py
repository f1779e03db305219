"""Choosing tokens on the GPU."""

from minimtp.backend import array_module
from minimtp.kernels.cuda.source import NOWHERE, launch, whole
from minimtp.kernels.cuda.training import row_threads


def choose(logits, temperature, noise=None):
    return choose_into(logits, temperature, noise)


def choose_into(logits, temperature, noise=None, tokens=None, probabilities=NOWHERE):
    """Write the choices of `choose` to int64 `tokens` (R,), and each row's maximum probability to
    float32 `probabilities` (R,).

    tokens: None for a new array. The probabilities are the softmax of the logits.
    """
    xp, (rows, vocabulary) = array_module(logits), logits.shape
    if tokens is None:
        tokens = xp.empty(rows, xp.int64)
    noise = NOWHERE if noise is None else whole(noise)[0]
    launch(
        "sampling", "choose", (rows,), row_threads(vocabulary), *whole(logits), noise,
        float(temperature), vocabulary, tokens, probabilities,
    )  # fmt: skip
    return tokens
