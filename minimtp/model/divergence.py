"""How far a model's predictions are from those of a reference, such as the model before rounding.

    divergence   KL(p || q) = sum_v p_v (log p_v - log q_v)  in nats per token, where p is the
                 reference's distribution of the next token and q the model's
    agreement    how often both have the same most likely token

The loss on a text can hide what rounding does: some tokens become less likely, others more, and the
mean stays. The divergence counts both (Kullback & Leibler 1951). It is zero only for equal
distributions.
"""

from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Tensor, no_grad
from minimtp.model.loss import evaluate_losses
from minimtp.model.transformer import LanguageModel


def evaluate_against(
    model: LanguageModel, reference: LanguageModel, tokens: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the results of `evaluate_losses`, and then, for the next token, the divergence from
    the reference (B, T) in nats and whether the most likely tokens agree (B, T).

    tokens: (B, T + 1 + K) integers. Both models must have the same vocabulary. As in
    `evaluate_losses`, only a slice of the logits exists at a time.
    """
    batch, length = tokens.shape[0], tokens.shape[1] - 1 - model.depth
    with no_grad():
        hidden = reference.hidden(tokens[:, :length]).data  # (B, T, D)
    hidden = hidden.reshape(batch * length, -1)
    divergence, agrees = [], []

    def compare(rows: slice, logits: Array) -> None:
        expected = reference.logits(Tensor(hidden[rows])).data  # (rows, V)
        agrees.append(expected.argmax(axis=1) == logits.argmax(axis=1))
        divergence.append(kl_divergence(expected, logits))

    nats, predicted = evaluate_losses(model, tokens, compare)
    join = array_module(nats).concatenate
    shape = batch, length
    return nats, predicted, join(divergence).reshape(shape), join(agrees).reshape(shape)


def kl_divergence(expected: Array, logits: Array) -> Array:
    """Return KL(softmax(expected) || softmax(logits)) of each row: two (M, V) -> (M,), in nats."""
    log_p, log_q = _log_softmax(expected), _log_softmax(logits)
    log_q -= log_p
    xp = array_module(logits)
    return -(xp.exp(log_p, out=log_p) * log_q).sum(axis=1)


def _log_softmax(logits: Array) -> Array:
    xp = array_module(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted -= xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
