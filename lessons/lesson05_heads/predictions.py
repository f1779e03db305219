"""Guessing several bytes from one pass of the model, and counting how many of them come true."""

from collections.abc import Iterator

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import LanguageModel, Transformer


def guesses(model: LanguageModel, windows: Array) -> np.ndarray:
    """(W, T, 1 + K) likeliest tokens ahead, those before each being known, for (W, T + 1 + K) tokens."""
    return np.concatenate([to_numpy(evaluate_losses(model, part)[1]) for part in _parts(windows)])


def guesses_without_heads(model: Transformer, windows: Array, depth: int) -> np.ndarray:
    """The same for the wrong way: whatever is ahead is guessed to be what the output says of the next token."""
    return np.repeat(guesses(model, windows[:, : windows.shape[1] - depth]), 1 + depth, axis=-1)


def come_true(guessed: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(W, T, 1 + K): whether each guess is the token of the text."""
    length = guessed.shape[1]
    return np.stack(
        [guessed[:, :, k] == windows[:, 1 + k : 1 + k + length] for k in range(guessed.shape[2])],
        axis=-1,
    )


def in_a_row(right: np.ndarray) -> float:
    """How many guesses come true before the first that does not, on average: what a draft is worth."""
    return float(np.cumprod(right, axis=-1).sum(axis=-1).mean())


def draft(model: MultiTokenModel, tokens: Array) -> np.ndarray:
    """What is guessed after (B, T) tokens by heads that read no other position's guesses: (B, 1 + K)."""
    xp = array_module(tokens)
    following = xp.zeros((*tokens.shape, model.depth), tokens.dtype)
    guesses = []
    with no_grad():
        hidden = model.hidden(tokens)  # (B, T, D)
        for k in range(1 + model.depth):
            states = [hidden, *model.heads.states(hidden, following, model.trunk)]
            guesses.append(model.logits(states[k]).data[:, -1].argmax(axis=-1))  # (B,)
            if k < model.depth:
                following[:, -1, k] = guesses[-1]
    return to_numpy(xp.stack(guesses, axis=-1))


def _parts(windows: Array) -> Iterator[Array]:
    return (windows[start : start + 16] for start in range(0, len(windows), 16))
