"""The computations that decide the speed, in plain array code: the version to read, and the meaning of the fast ones.

Every function here has a twin with the same name and signature in `cpu.py` (Numba); the tests hold the two equal. These
run on NumPy and on CuPy arrays (the device follows the data), in float32 for work and in float64 for proofs: the result
has the input's dtype. Shapes use N rows, D model width, F feed-forward width, V vocabulary, K inputs of a product,
T tokens, H query heads, G key/value heads, C channels of a head, M matrices, P parameters.

Quantized values come in groups of 32 along a row, each group with one scale. Weights take ggml's Q4_0 and Q8_0, whose
arithmetic is in `blocks.py`. Activations take the rounding that a running product can afford, on the fly:

    code = round half to even(x * (127 / max|x|)),  scale = max|x| / 127

Both are float32 arithmetic even for a float64 input: rounded in any other precision, the numbers trained with would not
be the numbers exported. A group of activations below 4e-37, whose 127 / max|x| overflows, becomes zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.kernels.ggml import blocks as ggml
from minimtp.kernels.plain import gated_drafts

GROUP = ggml.GROUP_SIZE  # values that share a scale
BLOCK = (
    1 << 16
)  # parameters that are updated at a time: what is computed of them in between stays in the cache
LARGEST_WITHOUT_INVERSE = 127 * 2.0**-128  # at and below it 127 / max|x| is not a finite float32

# ------------------------------------------------------------------------------------------------------------ products


def matmul(a, b):
    """a (M, K) @ b (K, N) -> (M, N), or B of each, (B, M, K) @ (B, K, N) -> (B, M, N); transposed views are as welcome."""
    return a @ b


# ------------------------------------------------------------------------------------------------------- normalization


def rms_norm(x, weight, eps):
    """y = x / sqrt(mean(x^2) + eps) * weight, each row (Zhang & Sennrich 2019).

    x (N, D), weight (D,) -> y (N, D), inverse_rms (N,), which the backward needs.
    """
    xp = array_module(x)
    inverse_rms = 1 / xp.sqrt(xp.mean(x * x, axis=-1) + x.dtype.type(eps))  # (N,)
    normalized = x * inverse_rms[:, None]
    normalized *= weight
    return normalized, inverse_rms


def rms_norm_backward(grad, x, weight, inverse_rms):
    """Gradients of `rms_norm`: grad (N, D) -> dx (N, D), dweight (D,)."""
    normalized = x * inverse_rms[:, None]  # (N, D)
    dx = grad * weight
    along = (dx * normalized).mean(axis=-1)[
        :, None
    ]  # the share of the gradient that only rescales the row
    dweight = (grad * normalized).sum(axis=0)
    normalized *= along
    dx -= normalized
    dx *= inverse_rms[:, None]
    return dx, dweight


# -------------------------------------------------------------------------------------------------------- feed-forward


def _sigmoid(x):
    """1 / (1 + exp(-x)). Where the exponential overflows, below -88 in float32, infinity makes it the right 0."""
    xp = array_module(x)
    with np.errstate(over="ignore"):
        result = xp.exp(-x)
    result += 1
    return xp.divide(1, result, out=result)


def swiglu(gate_up):
    """silu(gate) * up with silu(g) = g * sigmoid(g) (Shazeer 2020); gate_up (N, 2F) holds gate, then up -> (N, F)."""
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    result = _sigmoid(gate)
    result *= gate
    result *= up
    return result


def swiglu_backward(grad, gate_up):
    """Gradient of `swiglu`: grad (N, F) -> (N, 2F), recomputing the sigmoid rather than storing it.

    silu' = sigmoid + silu (1 - sigmoid).
    """
    xp = array_module(grad)
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    result = xp.empty_like(gate_up)
    dgate, dup = result[:, :width], result[:, width:]
    sigmoid = _sigmoid(gate)
    silu = gate * sigmoid
    xp.multiply(grad, silu, out=dup)
    silu *= 1 - sigmoid
    sigmoid += silu
    sigmoid *= grad
    xp.multiply(sigmoid, up, out=dgate)
    return result


def gated_update(state, gate_candidate):
    """state + sigmoid(gate) * (candidate - state): (N, D) and (N, 2D), gate first -> (N, D)."""
    width = state.shape[1]
    return state + _sigmoid(gate_candidate[:, :width]) * (gate_candidate[:, width:] - state)


def gated_update_backward(grad, state, gate_candidate):
    """The derivative of `gated_update`: grad (N, D) -> dstate (N, D), dgate_candidate (N, 2D)."""
    xp, width = array_module(grad), state.shape[1]
    gate = _sigmoid(gate_candidate[:, :width])
    dcandidate = grad * gate
    dgate = dcandidate * (1 - gate) * (gate_candidate[:, width:] - state)
    return grad - dcandidate, xp.concatenate([dgate, dcandidate], axis=1)


# ----------------------------------------------------------------------------------------------------------- attention


def rotate(x, cos, sin):
    """Rotary positions (Su et al. 2021) on adjacent pairs: (a, b) -> (a cos - b sin, a sin + b cos).

    x (B, T, H, C), cos and sin (T, C/2) -> new array (B, T, H, C). The inverse is `rotate(x, cos, -sin)`, and so is the
    backward: a rotation's transpose is its inverse.
    """
    pairs = (
        array_module(x).ascontiguousarray(x).view(f"c{2 * x.itemsize}")
    )  # (B, T, H, C/2), a + ib
    return (pairs * (cos + 1j * sin).astype(pairs.dtype)[:, None]).view(x.dtype)


def causal_softmax(scores, scale):
    """softmax(scores * scale) of each row over its own position's column and those before it, zero to the right.

    scores (M, L, S), the last L of S positions, scale > 0 -> probabilities (M, L, S): row i sees columns 0..S-L+i. Works IN
    PLACE: the result is `scores`, overwritten.
    """
    xp = array_module(scores)
    rows, columns = scores.shape[1:]
    future = xp.triu(xp.ones((rows, columns), dtype=bool), 1 + columns - rows)
    scores *= scores.dtype.type(scale)
    xp.copyto(scores, scores.dtype.type(-xp.inf), where=future)
    scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def causal_softmax_backward(grad, probabilities, scale):
    """Gradient of `causal_softmax` for the scores: grad (M, L, S) -> (M, L, S). Works IN PLACE: overwrites `grad`."""
    grad -= (grad * probabilities).sum(axis=-1, keepdims=True)
    grad *= probabilities
    grad *= grad.dtype.type(scale)
    return grad


def cached_attention(q, keys, values, start, scale):
    """Attention of new tokens over a cache: row t attends to the cache's rows 0..start+t.

    q (T, H, C), keys (G, C, S), values (S, G, C), S >= start + T, scale > 0 -> (T, H, C). H / G neighbouring query heads share
    one of the G: query head h uses head h // (H // G) (grouped-query attention, Ainslie et al. 2023).
    """
    xp = array_module(q)
    rows, heads, head_dim = q.shape
    groups = keys.shape[0]
    length = start + rows
    queries = q.reshape(rows, groups, heads // groups, head_dim).transpose(
        1, 2, 0, 3
    )  # (G, H/G, T, C)
    keys = keys[:, None, :, :length]  # (G, 1, C, S)
    values = values[:length].transpose(1, 0, 2)[:, None]  # (G, 1, S, C)
    scores = xp.matmul(queries, keys) * q.dtype.type(scale)  # (G, H/G, T, S)
    future = xp.arange(length)[None, :] > start + xp.arange(rows)[:, None]  # (T, S)
    xp.copyto(scores, q.dtype.type(-xp.inf), where=future)
    scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return xp.ascontiguousarray(xp.matmul(scores, values).transpose(2, 0, 1, 3)).reshape(
        rows, heads, head_dim
    )


# ----------------------------------------------------------------------------------------------------- loss, embedding


def cross_entropy(logits, targets):
    """Negative log-likelihood of each row's target in nats; a target of -1 is ignored and costs 0.

    logits (N, V), targets (N,) int64 -> losses (N,), log_sum_exp (N,), which the backward needs.
    """
    xp = array_module(logits)
    largest = logits.max(axis=-1)
    log_sum_exp = largest + xp.log(xp.exp(logits - largest[:, None]).sum(axis=-1))
    chosen = logits[xp.arange(len(targets)), xp.maximum(targets, 0)]
    return xp.where(targets >= 0, log_sum_exp - chosen, logits.dtype.type(0)), log_sum_exp


def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    """Gradient of `cross_entropy`: grad (N,) of the losses -> (N, V), (softmax - one-hot) * grad, 0 where ignored."""
    xp = array_module(logits)
    grad = xp.where(targets >= 0, grad, grad.dtype.type(0))
    result = xp.exp(logits - log_sum_exp[:, None])
    result *= grad[:, None]
    result[xp.arange(len(targets)), xp.maximum(targets, 0)] -= grad
    return result


def embedding_backward(grad, tokens, out):
    """Adds each row of grad (N, D) into the row of out (V, D) that its token (N,) names. Tokens may repeat."""
    array_module(grad).add.at(out, tokens, grad)


# ----------------------------------------------------------------------------------------------------- choosing tokens


def choose(logits, temperature, noise=None):
    """The token with the largest of logits / temperature + noise in each row, of equals the lowest: (R,) int64.

    logits (R, V), temperature > 0, noise (R, V) float64 or None for zeros. -1 where the chosen token's logit is infinite or no
    number: so whoever reads the tokens knows that without a look at the logits.
    """
    xp = array_module(logits)
    scores = logits if temperature == 1 else logits / temperature
    tokens = (scores if noise is None else scores + noise).argmax(axis=-1)
    finite = xp.isfinite(xp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0])
    return xp.where(finite, tokens, -1)


# ----------------------------------------------------------------------------------------------------------- optimizer


def adamw(
    parameters,
    gradients,
    first,
    second,
    decay_mask,
    learning_rate,
    beta1,
    beta2,
    eps,
    weight_decay,
    step,
    gradient_scale,
):
    """One step of Adam (Kingma & Ba 2015) with decoupled decay (Loshchilov & Hutter 2019), in place on flat (P,).

    `first` and `second` are the running moments, corrected here for their start at zero; `step` counts from 1;
    `gradient_scale` multiplies the gradient (clipping); `decay_mask`, a scalar or (P,), says how much of the decay each
    parameter gets. The gradients are left as they are.
    """
    xp = array_module(parameters)
    real = parameters.dtype.type
    everywhere = isinstance(decay_mask, (int, float))
    for start in range(0, len(parameters), BLOCK):
        part = slice(start, start + BLOCK)
        decay = decay_mask if everywhere else decay_mask[part]
        gradient, moment, square = gradients[part] * real(gradient_scale), first[part], second[part]
        moment += real(1 - beta1) * (gradient - moment)
        gradient *= gradient
        square += real(1 - beta2) * (gradient - square)
        update = xp.sqrt(square * real(1 / (1 - beta2**step)))
        update += real(eps)
        xp.divide(moment * real(1 / (1 - beta1**step)), update, out=update)
        update += parameters[part] * (decay * real(weight_decay))
        update *= real(learning_rate)
        parameters[part] -= update


# -------------------------------------------------------------------------------------------------------- quantization


def fake_quantize_q4_0(w):
    """The values that ggml's Q4_0 stores for w (N, K) -> (N, K) in w's dtype. ValueError unless 32 divides K."""
    require_whole_groups(w)
    return ggml.decode(*ggml.encode_q4_0(w)).astype(w.dtype, copy=False)


def fake_quantize_q8_0(w):
    """The values that ggml's Q8_0 stores for w (N, K) -> (N, K) in w's dtype. ValueError unless 32 divides K."""
    require_whole_groups(w)
    return ggml.decode(*ggml.encode_q8_0(w)).astype(w.dtype, copy=False)


def quantize_activations(x):
    """x (N, K) -> codes int8 (N, K) in -127..127, scales float32 (N, K/32). ValueError unless 32 divides K."""
    require_whole_groups(x)
    xp = array_module(x)
    groups = x.astype(xp.float32, copy=False).reshape(len(x), -1, GROUP)
    largest = xp.abs(groups).max(axis=-1, keepdims=True)  # (N, K/32, 1)
    usable = largest > xp.float32(LARGEST_WITHOUT_INVERSE)
    inverse = xp.where(
        usable, xp.float32(127) / xp.where(usable, largest, xp.float32(1)), xp.float32(0)
    )
    codes = xp.rint(groups * inverse).astype(xp.int8)
    return codes.reshape(x.shape), (largest / xp.float32(127))[..., 0]


def fake_quantize_activations(x):
    """The values that a quantized product sees of x (N, K): codes * scales of `quantize_activations`, in x's dtype."""
    return ggml.decode(*quantize_activations(x)).astype(x.dtype, copy=False)


def require_whole_groups(x):
    if x.shape[-1] % GROUP:
        raise ValueError(f"rows of {x.shape[-1]} values do not divide into groups of {GROUP}")


# ------------------------------------------------------------------------------------------------------------ products


@dataclass(frozen=True)
class Prepared:
    """A weight matrix ready for `linear`. Here quantized weights are decoded once and kept as floats."""

    weight: object  # (N, K)
    rounding: Callable | None = (
        None  # what `linear` puts its inputs through first, (T, K) -> (T, K)
    )

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


def prepare_f32(weight):
    """A float matrix (N, K) made ready for `linear`."""
    return Prepared(weight)


def prepare_f16(numbers):
    """A matrix of float16 numbers, uint8 (N, 2K), made ready for `linear`; its products are those of float32."""
    return Prepared(array_module(numbers).ascontiguousarray(numbers).view("<f2").astype("float32"))


def prepare_q4_0(blocks):
    """Q4_0 blocks, uint8 (N, K/32 * 18), made ready for `linear`."""
    return Prepared(ggml.decode(*ggml.unpack_q4_0(blocks)), fake_quantize_activations)


def prepare_q8_0(blocks):
    """Q8_0 blocks, uint8 (N, K/32 * 34), made ready for `linear`."""
    return Prepared(ggml.decode(*ggml.unpack_q8_0(blocks)), fake_quantize_activations)


def linear(x, prepared, out=None):
    """y = x @ W.T for x (T, K) and a prepared W (N, K) -> (T, N), into `out` if given.

    With quantized weights the activations are quantized first. Each row's result may depend on how many rows there are,
    because BLAS chooses its order of addition by the shape; the compiled twin promises that it does not.
    """
    if prepared.rounding is not None:
        x = prepared.rounding(x)
    weight = prepared.weight.astype(
        x.dtype, copy=False
    )  # as it lies in training: in another layout BLAS adds up otherwise
    return array_module(x).matmul(x, weight.T, out=out)


def embedding(prepared, tokens):
    """The rows that tokens (T,) name of a matrix (N, K) made ready for `linear`, as floats: (T, K), a new array.

    A tied output is also the table of token embeddings. Raises IndexError for a token beyond the last row.
    """
    return prepared.weight[tokens]


# -------------------------------------------------------------------------------------------- several kernels in one call


@dataclass(frozen=True)
class PreparedBlock:
    """One transformer block's weights: two norms (D,), four matrices made ready by `prepare_*`, and settings."""

    attention_norm: object
    qkv: object
    attention_output: object
    feed_forward_norm: object
    gate_up: object
    down: object
    heads: int  # query heads
    epsilon: float
    stored: Callable | None = (
        None  # what the cache makes of keys and values, (T, G, C) -> (T, G, C); None: it keeps them
    )


def prepare_block(
    attention_norm, qkv, attention_output, feed_forward_norm, gate_up, down, heads, epsilon
):
    """One transformer block made ready for `transformer_block`; the matrices have been through `prepare_*`."""
    return PreparedBlock(
        attention_norm, qkv, attention_output, feed_forward_norm, gate_up, down, heads, epsilon
    )


def transformer_block(x, block, keys, values, start, cosine, sine, tree=None):
    """A whole block on T new tokens:  x += Attention(norm(x));  x += FeedForward(norm(x)).  All IN PLACE; returns None.

    x (T, D) is overwritten. The tokens' keys and values are written to positions start..start+T-1 of the cache, keys
    (G, C, S) and values (S, G, C), whose positions before `start` are the past. cosine, sine (T, C/2) rotate to the
    positions from `start`. All arrays are contiguous.

    tree: (stretches, kept keys, kept values) for tokens that are no chain but a tree in depth-first order. A stretch (int64:
    first row, row after the last, position of the first) is a chain; the cache serves as the walk's stack: when a stretch has
    been written at its positions, the positions before it hold its ancestors, since all that was written later lies deeper. So
    a row meets exactly the numbers that it would meet in a chain. What the walk overwrites is kept: keys and values of
    every row, (T, G, C) each. cosine and sine rotate to the rows' own positions.

    Raises ValueError where the rows do not fit the cache.
    """
    (rows, _), (groups, head_dim, room) = x.shape, keys.shape
    stretches = [(0, rows, start)] if tree is None else tree[0].tolist()
    if start < 0 or any(position + stop - first > room for first, stop, position in stretches):
        raise ValueError(f"{rows} rows after {start} do not fit a cache of {room}")
    normed, _ = rms_norm(x, block.attention_norm, block.epsilon)
    joined = linear(normed, block.qkv).reshape(
        1, rows, -1, head_dim
    )  # queries, keys, values: (1, T, H+2G, C)
    rotated = rotate(joined[:, :, : block.heads + groups], cosine, sine)[0]  # (T, H+G, C)
    new_keys, new_values = rotated[:, block.heads :], joined[0, :, block.heads + groups :]
    if block.stored is not None:
        new_keys, new_values = block.stored(new_keys), block.stored(new_values)
    attended = []
    for first, stop, position in stretches:
        at = slice(position, position + stop - first)
        keys[:, :, at] = new_keys[first:stop].transpose(1, 2, 0)
        values[at] = new_values[first:stop]
        attended.append(
            cached_attention(
                rotated[first:stop, : block.heads], keys, values, position, head_dim**-0.5
            )
        )
    if tree is not None:
        tree[1][...], tree[2][...] = new_keys, new_values
    attended = array_module(x).concatenate(attended) if tree else attended[0]  # (T, H, C)
    x += linear(attended.reshape(rows, -1), block.attention_output)
    normed, _ = rms_norm(x, block.feed_forward_norm, block.epsilon)
    x += linear(swiglu(linear(normed, block.gate_up)), block.down)


@dataclass(frozen=True)
class PreparedTrunk:
    """All blocks, the final norm (D,), and the output, a matrix made ready by `prepare_*`."""

    blocks: tuple
    final_norm: object
    output: object
    epsilon: float


def prepare_trunk(blocks, final_norm, output, heads, epsilon):
    """A trunk made ready for `trunk_step`.

    blocks: for each block a function that returns the first six arguments of `prepare_block`, called one after the other, so
    that no two copies of all the weights need be alive at once. The blocks must have the same sizes and formats.
    """
    prepared = tuple(prepare_block(*make(), heads, epsilon) for make in blocks)
    return PreparedTrunk(prepared, final_norm, output, epsilon)


def trunk_step(x, trunk, keys, values, start, cosine, sine, tree=None):
    """T new tokens through every block, the final norm and the output -> logits (T, V), hidden (T, D).

    x (T, D) is overwritten; keys (L, G, C, S) and values (L, S, G, C) are the caches of the L blocks; of a tree, kept keys
    and values are (L, T, G, C). The rest is as in `transformer_block`.
    """
    for i, (block, block_keys, block_values) in enumerate(
        zip(trunk.blocks, keys, values, strict=True)
    ):
        block_tree = None if tree is None else (tree[0], tree[1][i], tree[2][i])
        transformer_block(x, block, block_keys, block_values, start, cosine, sine, block_tree)
    hidden, _ = rms_norm(x, trunk.final_norm, trunk.epsilon)
    return linear(hidden, trunk.output), hidden


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
    """Every token's share of a gated head's gate and candidate: token_parts[tokens] (R, 2D) of tokens (R,).

    table (V, D): the token embeddings, and from_token (2D, D), two matrices made ready by `prepare_*`; norm (D,). Computed when
    asked for; an array (V, 2D) of all of them does as well wherever token_parts are wanted.
    """
    return gated_drafts.TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def gated_step(state, token_part, step):
    """One drafted token: state (1, D), CHANGED IN PLACE, and the token's share of gate and candidate (1, 2D)
    -> logits (1, V) of the token after it, and the probability of the most probable one.
    """
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    logits = linear(normed, step.output)
    xp = array_module(logits)
    return logits, 1 / xp.exp(logits - logits.max()).sum()


def gated_greedy_draft(state, token, token_parts, depth, min_confidence, step):
    """Up to `depth` drafted tokens (k,) int64, each the most probable one after the tokens before it.

    state (1, D), CHANGED IN PLACE; token: the one before the draft; token_parts: see `prepare_token_parts`. Stops where the
    product of the largest probabilities falls below `least_confidence`.
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
    """As `gated_greedy_draft`, with the largest of logits / temperature + noise for each token; int64 on the host.

    noise: (K, V) float64, a row a token, on the host or where the state is.
    """
    return gated_drafts.sampled_draft(
        gated_step, state, token, token_parts, noise, temperature, min_confidence, step
    )


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None, temperature=1.0
):
    """A tree of drafts, always with the likeliest node next: tokens (N + 1,) and parents (N + 1,), int64 on the host.

    Node 0 is `token`, with the parent -1. sizes: at most how many drafts, how many behind one another, and how many different
    ones for one place. A node's chance is the product of the beliefs along its path, and a belief what a softmax of
    `sharpness` times the scores gives; scores are logits / temperature and, with noise (depth, V) float64 on the host, its row
    for the node's depth on top. No node's chance is below `least_chance`. Of equal chances the one whose parent is older is
    taken, of equal scores the lowest token.
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
