"""Decoding on the GPU: attention over the cache, a whole transformer block, a drafted token, and a whole greedy draft.

The meaning of each function stands in `plain.py` under its name. `start`, the position of the first new token, may be an array
of one int32 on the device instead of a number: then a captured CUDA graph can be replayed at any position (`cuda_graph.py`).
"""

from minimtp.backend import array_module, numpy
from minimtp.kernels.cuda_products import add_linear, linear
from minimtp.kernels.cuda_source import NOWHERE, blocks_for, launch, whole
from minimtp.kernels.cuda_training import gated_update, rms_norm, row_threads, swiglu
from minimtp.kernels.plain import PreparedBlock, PreparedGatedStep, prepare_block, prepare_gated_step

__all__ = [
    "cached_attention", "gated_greedy_draft", "gated_step", "prepare_block", "prepare_gated_step", "transformer_block",
]  # fmt: skip

CHUNK = 128  # positions of the cache that one block of threads attends to, as in cuda/attention.cu
WIDEST_HEAD = 256  # channels


def _position(start) -> tuple:
    """`start` as the two arguments of the kernels: a number, and where to find one to add to it."""
    return (0, start) if hasattr(start, "dtype") and getattr(start, "ndim", 0) else (int(start), NOWHERE)


def cached_attention(q, keys, values, start, scale):
    """As in `plain.py`. Raises ValueError for heads of more than 256 channels."""
    xp, (tokens, heads, channels), (room, groups, _) = array_module(q), q.shape, keys.shape
    if channels > WIDEST_HEAD:
        raise ValueError(f"a head of {channels} channels is wider than the {WIDEST_HEAD} that the kernel takes")
    offset, place = _position(start)
    last = room if place is not NOWHERE else offset + tokens  # a graph is for any position: idle blocks return at once
    stretches = blocks_for(last, CHUNK)
    q, keys, values = whole(q, keys, values)
    partial = xp.empty((tokens, heads, stretches, channels + 2), xp.float32)
    launch(
        "attention", "cached_attention_partial", (stretches, heads, tokens), 256, q, keys, values, heads, groups, channels,
        offset, place, float(scale), partial,
    )  # fmt: skip
    y = xp.empty((tokens, heads, channels), xp.float32)
    block = 32 * blocks_for(channels, 32)
    launch(
        "attention", "cached_attention_join", (heads, tokens), block, partial, heads, channels, stretches, offset, place, y
    )
    return y


def transformer_block(x, block: PreparedBlock, keys, values, start, cosine, sine):
    """As in `plain.py`; whether the rows fit the cache is the caller's to know where `start` is on the device."""
    xp, tokens, (room, groups, channels), heads = array_module(x), x.shape[0], keys.shape, block.heads
    offset, place = _position(start)
    if place is NOWHERE and not 0 <= offset <= room - tokens:
        raise ValueError(f"{tokens} rows after {offset} do not fit a cache of {room}")
    normed, _ = rms_norm(x, block.attention_norm, block.epsilon)
    joined = linear(normed, block.qkv)  # (T, (H + 2G) C)
    queries = xp.empty((tokens, heads, channels), xp.float32)
    launch(
        "pointwise", "rotate_into_cache", (blocks_for(joined.size // 2, 256),), 256, joined, *whole(cosine, sine), tokens,
        heads, groups, channels, offset, place, queries, keys, values,
    )  # fmt: skip
    attended = cached_attention(queries, keys, values, start, channels**-0.5)
    add_linear(attended.reshape(tokens, -1), block.attention_output, x)
    normed, _ = rms_norm(x, block.feed_forward_norm, block.epsilon)
    add_linear(swiglu(linear(normed, block.gate_up)), block.down, x)


def gated_step(state, token_part, step: PreparedGatedStep):
    logits = _next_logits(state, token_part, step)
    return logits, most_probable(logits)[1][0]


def _next_logits(state, token_part, step):
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    return linear(normed, step.output)


def most_probable(logits):
    """logits (N, V) -> the most probable token of each row, int64 (N,), the first of equals, and its probability (N,)."""
    xp, (rows, vocabulary) = array_module(logits), logits.shape
    tokens, probabilities = xp.empty(rows, xp.int64), xp.empty(rows, xp.float32)
    block = row_threads(vocabulary)
    launch("loss", "most_probable", (rows,), block, *whole(logits), vocabulary, tokens, probabilities)
    return tokens, probabilities


def draft_on_device(state, token, token_parts, depth, step):
    """`depth` drafted tokens, float64 (2, depth): the tokens, and the probability of the draft up to each.

    state (1, D), changed in place; token: an array of one int64. Nothing is read by the host.
    """
    xp, tokens, probabilities = array_module(state), [], []
    for _ in range(depth):
        token, probability = most_probable(_next_logits(state, token_parts[token], step))
        tokens.append(token)
        probabilities.append(probability)
    confidence = xp.cumprod(xp.concatenate(probabilities).astype(xp.float64))
    return xp.stack([xp.concatenate(tokens).astype(xp.float64), confidence])


def gated_greedy_draft(state, token, token_parts, depth, least_confidence, step):
    """As in `plain.py`, with all of the draft computed before the host looks, once; the result is on the host."""
    xp = array_module(state)
    return confident(draft_on_device(state, xp.full(1, token, xp.int64), token_parts, depth, step).get(), least_confidence)


def confident(draft, least_confidence):
    """The tokens int64 (k,) of a draft (2, depth) on the host, up to the first whose draft is less probable than that."""
    doubtful = draft[1] < least_confidence
    count = int(doubtful.argmax()) if doubtful.any() else draft.shape[1]
    return draft[0, :count].astype(numpy.int64)
