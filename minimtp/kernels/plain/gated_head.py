"""Drafting with a gated head, in plain array code."""

from dataclasses import dataclass

from minimtp.backend import array_module
from minimtp.kernels.plain import gated_drafts
from minimtp.kernels.plain.gates import gated_update
from minimtp.kernels.plain.norms import rms_norm
from minimtp.kernels.plain.packed_linear import embedding, linear


@dataclass(frozen=True)
class PreparedGatedStep:
    """A gated head and the output: two norms (D,), two matrices made ready by `prepare_*`."""

    state_norm: object
    from_state: object  # (2D, D): gate, then candidate
    norm: object
    output: object  # (V, D)
    epsilon: float


def prepare_gated_step(state_norm, from_state, norm, output, epsilon):
    """A gated head made ready for `gated_step`; the matrices have been through `prepare_*`."""
    return PreparedGatedStep(state_norm, from_state, norm, output, epsilon)


def prepare_token_parts(table, norm, from_token, epsilon):
    """Every token's share of a gated head's gate and candidate: token_parts[tokens] (R, 2D) of
    tokens (R,).

    table (V, D): the token embeddings, and from_token (2D, D), two matrices made ready by
    `prepare_*`; norm (D,). Computed when asked for; an array (V, 2D) of all of them does as well
    wherever token_parts are wanted.
    """
    return gated_drafts.TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def gated_step(state, token_part, step):
    """One drafted token: state (1, D), CHANGED IN PLACE, and the token's share of gate and
    candidate (1, 2D) -> logits (1, V) of the token after it, and the probability of the most
    probable one.
    """
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    logits = linear(normed, step.output)
    xp = array_module(logits)
    return logits, 1 / xp.exp(logits - logits.max()).sum()


def gated_greedy_draft(state, token, token_parts, depth, min_confidence, step):
    """Up to `depth` drafted tokens (k,) int64, each the most probable one after the tokens before
    it.

    state (1, D), CHANGED IN PLACE; token: the one before the draft; token_parts: see
    `prepare_token_parts`. Stops where the product of the largest probabilities falls below
    `least_confidence`.
    """
    xp, drafts, confidence = array_module(state), [], 1.0
    for _ in range(depth):
        logits, largest_probability = gated_step(state, token_parts[token : token + 1], step)
        confidence *= float(largest_probability)
        if confidence < min_confidence:
            break
        token = int(logits.argmax())
        drafts.append(token)
    return xp.asarray(drafts, dtype="int64")


def gated_sampled_draft(state, token, token_parts, noise, temperature, min_confidence, step):
    """As `gated_greedy_draft`, with the largest of logits / temperature + noise for each token;
    int64 on the host.

    noise: (K, V) float64, a row a token, on the host or where the state is.
    """
    return gated_drafts.sampled_draft(
        gated_step, state, token, token_parts, noise, temperature, min_confidence, step
    )


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None, temperature=1.0
):
    """A tree of drafts, always with the likeliest node next: tokens (N + 1,) and parents (N + 1,),
    int64 on the host.

    Node 0 is `token`, with the parent -1. sizes: at most how many drafts, how many behind one
    another, and how many different ones for one place. A node's chance is the product of the
    beliefs along its path, and a belief what a softmax of `sharpness` times the scores gives;
    scores are logits / temperature and, with noise (depth, V) float64 on the host, its row for the
    node's depth on top. No node's chance is below `least_chance`. Of equal chances the one whose
    parent is older is taken, of equal scores the lowest token.
    """
    return gated_drafts.likeliest_tree(
        gated_step,
        state,
        token,
        token_parts,
        sizes,
        min_acceptance,
        sharpness,
        step,
        noise,
        temperature,
    )
