"""The quality of a file in llama.cpp: its loss on windows of text, and how far it is from a
reference.

The measures are those of `minimtp evaluate` (model/divergence.py), so the numbers compare.
"""

from typing import NamedTuple

from minimtp.backend import array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import LlamaProcess
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.model.divergence import kl_divergence
from minimtp.model.transformer import LanguageModel

ROWS_AT_ONCE = 128  # whose logits are compared together, so that intermediate arrays stay small


class Quality(NamedTuple):
    """Results for each token. The last two are None without a reference."""

    nats: np.ndarray  # (N, T) -log p of the token that follows
    divergence: np.ndarray | None  # (N, T) in nats
    agrees: np.ndarray | None  # (N, T) whether the most likely tokens are the same


def evaluate_llama(
    llama: LlamaProcess, windows: np.ndarray, reference: LanguageModel | None = None
) -> Quality:
    """Predict the tokens of the windows after the first one, each from those before it.

    windows: (N, T + 1) integers. reference: a model with the same vocabulary.
    Raises ValueError if a window does not fit the context.
    """
    shape = len(windows), windows.shape[1] - 1
    nats, divergence = np.empty(shape, np.float32), np.empty(shape, np.float32)
    agrees = np.empty(shape, bool)
    if reference is not None:
        xp = array_module(reference.parameters()[0].data)  # llama.cpp always uses the CPU
    for index, window in enumerate(windows):
        logits, hidden = llama.logits(window[:-1]), None  # (T, V)
        if reference is not None:
            with no_grad():
                tokens = xp.asarray(window[None, :-1])
                hidden = reference.hidden(tokens).data[0]  # (T, D)
        for start in range(0, shape[1], ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            mine = logits[rows]
            nats[index, rows] = _nats(mine, window[1:][rows])
            if hidden is not None:
                with no_grad():
                    expected = to_numpy(reference.logits(Tensor(hidden[rows])).data)  # (rows, V)
                divergence[index, rows] = kl_divergence(expected, mine)
                agrees[index, rows] = expected.argmax(axis=1) == mine.argmax(axis=1)
    return Quality(nats, *((None, None) if reference is None else (divergence, agrees)))


def _nats(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return -log p of a token in each row: (M, V), (M,) -> (M,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(shifted, tokens[:, None].astype(np.int64), axis=1)[:, 0]
    return np.log(np.exp(shifted).sum(axis=1)) - chosen
