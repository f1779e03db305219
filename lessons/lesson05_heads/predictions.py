"""Predict several bytes from one forward pass of the model, and count the correct predictions."""

from minimtp.backend import Array, array_module, to_numpy
from minimtp.backend import numpy as np
from minimtp.engine.tensor import no_grad
from minimtp.model.heads import MultiTokenModel
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import LanguageModel, Transformer


def predictions(model: LanguageModel, windows: Array) -> np.ndarray:
    """Return the most likely tokens ahead (W, T, 1 + K), for tokens (W, T + 1 + K).

    Each prediction sees the true tokens before it (teacher forcing).
    """
    parts = (windows[start : start + 16] for start in range(0, len(windows), 16))
    return np.concatenate([to_numpy(evaluate_losses(model, part)[1]) for part in parts])


def predictions_without_heads(model: Transformer, windows: Array, depth: int) -> np.ndarray:
    """The wrong way: use the prediction of the next token for every token ahead. (W, T, 1 + K)."""
    next_tokens = predictions(model, windows[:, : windows.shape[1] - depth])
    return np.repeat(next_tokens, 1 + depth, axis=-1)


def correct(predicted: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return whether each prediction equals the token of the text, as booleans (W, T, 1 + K)."""
    length, count = predicted.shape[1:]
    targets = [windows[:, 1 + k : 1 + k + length] for k in range(count)]
    return predicted == np.stack(targets, axis=-1)


def correct_so_far(right: np.ndarray) -> list[float | None]:
    """Return the share a_j of correct predictions at each distance j = 1..1+K, among the positions
    where all nearer predictions are correct. None if there is no such position.

    right: (W, T, 1 + K) booleans.
    """
    reached = np.cumprod(right, axis=-1).sum(axis=(0, 1))  # positions with 1..j all correct
    before = [right[..., 0].size, *reached[:-1]]
    return [float(n / m) if m else None for n, m in zip(reached, before, strict=True)]


def correct_in_a_row(right: np.ndarray) -> float:
    """Return the mean number of correct predictions before the first wrong one."""
    return float(np.cumprod(right, axis=-1).sum(axis=-1).mean())


def draft(model: MultiTokenModel, tokens: Array) -> np.ndarray:
    """Return the tokens drafted after (B, T) tokens, as (B, 1 + K). Each head sees the drafts
    before it.

    The heads must not attend to other positions' drafts: parallel or token-conditioned.
    """
    xp = array_module(tokens)
    following = xp.zeros((*tokens.shape, model.depth), tokens.dtype)  # (B, T, K)
    drafts = []
    with no_grad():
        hidden = model.hidden(tokens)  # (B, T, D)
        for k in range(1 + model.depth):
            states = [hidden, *model.heads.states(hidden, following, model.trunk)]
            drafts.append(model.logits(states[k]).data[:, -1].argmax(axis=-1))  # (B,)
            if k < model.depth:
                following[:, -1, k] = drafts[-1]
    return to_numpy(xp.stack(drafts, axis=-1))
