"""Decoding on the GPU: attention over the cache, a whole transformer block, choosing tokens, and a
whole draft.

`kernels/plain` has a readable function of the same name for each. `start`, the position of the
first new token, may be a device array of one int32 instead of a number. Then a recorded CUDA graph
can be replayed at any position (graph.py).
"""

from dataclasses import dataclass

from minimtp.backend import array_module, numpy
from minimtp.kernels import plain
from minimtp.kernels.cuda.graph import Graphs
from minimtp.kernels.cuda.packed_linear import add_linear, embedding, linear
from minimtp.kernels.cuda.source import NOWHERE, blocks_for, launch, whole
from minimtp.kernels.cuda.training import gated_update, rms_norm, row_threads, swiglu
from minimtp.kernels.plain import gated_drafts
from minimtp.kernels.plain.block import PreparedBlock, prepare_block

__all__ = [
    "cached_attention", "choose", "gated_greedy_draft", "gated_sampled_draft", "gated_step",
    "gated_tree", "prepare_block", "prepare_gated_step", "prepare_token_parts", "prepare_trunk",
    "transformer_block", "trunk_step",
]  # fmt: skip

CHUNK = 128  # positions of the cache that one block of threads attends to, as in cuda/attention.cu
WIDEST_HEAD = 512  # channels


def _position(start) -> tuple:
    """Return `start` as the kernels' two arguments: a number, and the address of a number to add to
    it.
    """
    return (
        (0, start)
        if hasattr(start, "dtype") and getattr(start, "ndim", 0)
        else (int(start), NOWHERE)
    )


def cached_attention(q, keys, values, start, scale):
    """As in `kernels/plain`. Raises ValueError if head_dim is above 512."""
    xp, (tokens, heads, head_dim), (groups, _, room) = array_module(q), q.shape, keys.shape
    if head_dim > WIDEST_HEAD:
        raise ValueError(
            f"a head of {head_dim} channels is wider than the {WIDEST_HEAD} that the kernel takes"
        )
    offset, place = _position(start)
    last = (
        room if place is not NOWHERE else offset + tokens
    )  # a graph is for any position: idle blocks return at once
    stretches = blocks_for(last, CHUNK)
    q, keys, values = whole(q, keys, values)
    partial = xp.empty((tokens, heads, stretches, head_dim + 2), xp.float32)
    launch(
        "attention", "cached_attention_partial", (stretches, heads, tokens), CHUNK, q, keys, values,
        heads, groups, head_dim, room, offset, place, float(scale), partial,
    )  # fmt: skip
    y = xp.empty((tokens, heads, head_dim), xp.float32)
    block = 32 * blocks_for(head_dim, 32)
    launch(
        "attention",
        "cached_attention_join",
        (heads, tokens),
        block,
        partial,
        heads,
        head_dim,
        stretches,
        offset,
        place,
        y,
    )
    return y


def transformer_block(x, block: PreparedBlock, keys, values, start, cosine, sine, tree=None):
    """As in `kernels/plain`. If `start` is on the device, the caller must check that the rows fit
    the cache.
    """
    xp, tokens, (groups, head_dim, room), heads = (
        array_module(x),
        x.shape[0],
        keys.shape,
        block.heads,
    )
    normed, _ = rms_norm(x, block.attention_norm, block.epsilon)
    joined = linear(normed, block.qkv)  # (T, (H + 2G) C)
    cosine, sine = whole(cosine, sine)
    attended = []
    for first, stop, position in [(0, tokens, start)] if tree is None else tree[0].tolist():
        offset, place = _position(position)
        if place is NOWHERE and not 0 <= offset <= room - (stop - first):
            raise ValueError(f"{stop - first} rows after {offset} do not fit a cache of {room}")
        queries, rows = xp.empty((stop - first, heads, head_dim), xp.float32), joined[first:stop]
        launch(
            "pointwise", "rotate_into_cache", (blocks_for(rows.size // 2, 256),), 256, rows,
            cosine[first:stop], sine[first:stop], stop - first, heads, groups, head_dim, room,
            offset, place, queries, keys, values,
        )  # fmt: skip
        attended.append(cached_attention(queries, keys, values, position, head_dim**-0.5))
        if tree is not None:
            tree[1][first:stop] = keys[:, :, offset : offset + stop - first].transpose(2, 0, 1)
            tree[2][first:stop] = values[offset : offset + stop - first]
    attended = attended[0] if tree is None else xp.concatenate(attended)
    add_linear(attended.reshape(tokens, -1), block.attention_output, x)
    normed, _ = rms_norm(x, block.feed_forward_norm, block.epsilon)
    add_linear(swiglu(linear(normed, block.gate_up)), block.down, x)


@dataclass(frozen=True)
class PreparedTrunk(plain.PreparedTrunk):
    """And the steps that were recorded with it (decode/model_runner.py): one graph for each number
    of tokens and cache.
    """

    graphs: Graphs


def prepare_trunk(blocks, final_norm, output, heads, epsilon):
    trunk = plain.prepare_trunk(blocks, final_norm, output, heads, epsilon)
    return PreparedTrunk(**{**vars(trunk), "graphs": Graphs()})


def trunk_step(x, trunk, keys, values, start, cosine, sine, tree=None):
    """As in `kernels/plain`. `transformer_block` explains `start`."""
    for i, (block, block_keys, block_values) in enumerate(
        zip(trunk.blocks, keys, values, strict=True)
    ):
        block_tree = None if tree is None else (tree[0], tree[1][i], tree[2][i])
        transformer_block(x, block, block_keys, block_values, start, cosine, sine, block_tree)
    hidden, _ = rms_norm(x, trunk.final_norm, trunk.epsilon)
    return linear(hidden, trunk.output), hidden


@dataclass(frozen=True)
class PreparedGatedStep:
    """What `plain.PreparedGatedStep` holds, and the drafts that were recorded: one graph for each
    depth.
    """

    state_norm: object
    from_state: object
    norm: object
    output: object
    epsilon: float
    graphs: Graphs


def prepare_gated_step(state_norm, from_state, norm, output, epsilon):
    return PreparedGatedStep(state_norm, from_state, norm, output, epsilon, Graphs())


def prepare_token_parts(table, norm, from_token, epsilon):
    return gated_drafts.TokenParts(table, norm, from_token, epsilon, embedding, rms_norm, linear)


def gated_step(state, token_part, step: PreparedGatedStep):
    logits = _next_logits(state, token_part, step)
    probability = array_module(logits).empty(1, numpy.float32)
    _choose(logits, 1.0, None, probabilities=probability)
    return logits, probability[0]


def _next_logits(state, token_part, step):
    normed, _ = rms_norm(state, step.state_norm, step.epsilon)
    state[...] = gated_update(state, linear(normed, step.from_state) + token_part)
    normed, _ = rms_norm(state, step.norm, step.epsilon)
    return linear(normed, step.output)


def choose(logits, temperature, noise=None):
    return _choose(logits, temperature, noise)


def _choose(logits, temperature, noise, tokens=None, probabilities=NOWHERE):
    """`choose` into `tokens`, if given; and the largest of a softmax of each row into
    `probabilities`, float32 (R,).
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


def gated_greedy_draft(state, token, token_parts, depth, min_confidence, step):
    return _gated_draft(state, token, token_parts, depth, 1.0, (), min_confidence, step)


def gated_sampled_draft(state, token, token_parts, noise, temperature, min_confidence, step):
    noise = array_module(state).asarray(noise)
    return _gated_draft(
        state, token, token_parts, len(noise), temperature, (noise,), min_confidence, step
    )


def _gated_draft(state, token, token_parts, depth, temperature, noise, min_confidence, step):
    """All of a draft is computed, as one graph, before the host looks, once. The result is on the
    host.

    noise: (), or the noise (K, V) alone.
    """

    def draft(state, token, *noise):
        # Written into their places: CuPy uploads the addresses of more than eight arrays to
        # concatenate, which no graph may do.
        xp = array_module(state)
        tokens, probabilities = xp.empty(depth, xp.int64), xp.empty(depth, xp.float32)
        for place in range(depth):
            here = slice(place, place + 1)
            logits = _next_logits(state, token_parts[token], step)
            token = _choose(
                logits,
                temperature,
                noise[0][here] if noise else None,
                tokens[here],
                probabilities[here],
            )
        found = xp.empty((2, depth), xp.float64)
        found[0], found[1] = tokens, probabilities
        return (found,)

    key = depth, id(token_parts), float(temperature), len(noise)
    (found,) = step.graphs.run(key, draft, state, numpy.int64(token), *noise)
    tokens, probabilities = found.get()  # (2, K)
    doubtful = probabilities.cumprod() < min_confidence
    count = int(doubtful.argmax()) if doubtful.any() else depth
    return numpy.maximum(tokens[:count], 0).astype(
        numpy.int64
    )  # where logits are no numbers any draft will do


def gated_tree(
    state, token, token_parts, sizes, min_acceptance, sharpness, step, noise=None, temperature=1.0
):
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
