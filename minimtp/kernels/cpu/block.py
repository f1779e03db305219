"""One transformer block, or a whole trunk, on a few new tokens in one compiled call.

The arithmetic of a small model's block takes three to ten microseconds. Eleven calls from Python,
each of which allocates an array, take longer. Here, compiled code calls the same kernels, so the
results are bit-identical. `kernels/plain/block.py` defines the computation.

Compiled code allocates an array in 15 to 45 ns and takes a view of an existing one in 13 ns.
Reusing the arrays would make a pass of a small model two percent faster. They are allocated in each
call, so that calls in several threads share nothing.
"""

from dataclasses import dataclass

from minimtp.backend import Array, aligned_zeros
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.attention import attend
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.gates import swiglu_rows
from minimtp.kernels.cpu.matrices.packed_linear import multiply
from minimtp.kernels.cpu.norms import normalize


def _no_tree(*blocks):
    """Return the empty tree arguments of a chain of rows. `blocks` is the number of blocks, if the
    call computes several.
    """
    return np.empty((0, 3), np.int64), *(np.empty((*blocks, 0, 0, 0), np.float32) for _ in range(2))


NO_TREE = _no_tree()


@dataclass(frozen=True, slots=True)
class PreparedBlock:
    weights: tuple  # the vectors and panels of BlockWeights, empty for None
    kinds: tuple  # of the four panels
    sizes: tuple  # query heads, outputs of the first product, inputs of the last
    epsilon: float


def prepare_block(weights, heads, epsilon):
    matrices = ("qkv", "attention_output", "gate_up", "down")
    arrays = tuple(
        part.panels if name in matrices else _vector(part)
        for name, part in weights._asdict().items()
    )
    kinds = tuple(getattr(weights, name).kind for name in matrices)
    return PreparedBlock(arrays, kinds, (heads, weights.qkv.rows, weights.down.columns), epsilon)


def _vector(vector):
    # Weights that are mapped from a file are read-only, and Numba would treat read-only arrays as
    # another type. Copies avoid that.
    return np.empty(0, np.float32) if vector is None else np.array(vector, np.float32)


@dataclass(frozen=True, slots=True)
class PreparedTrunk:
    weights: tuple  # of all blocks: norms (L, D), panels (L, P, bytes)
    kinds: tuple  # of the four panels
    sizes: tuple  # query heads, outputs of the first product, inputs of the last
    final_norm: Array  # (D,)
    output: Array  # panels
    output_kind: int
    vocabulary: int
    epsilon: float
    no_tree: tuple
    graphs: None = None  # only the GPU records passes


def prepare_trunk(blocks, final_norm, output, heads, epsilon):
    for index, make in enumerate(blocks):
        block = prepare_block(make(), heads, epsilon)
        if index == 0:
            first, weights = block, tuple(_stack(array, len(blocks)) for array in block.weights)
        if (block.kinds, block.sizes) != (first.kinds, first.sizes):
            raise ValueError("prepare_trunk: all blocks must have the same sizes and formats")
        for stack, array in zip(weights, block.weights, strict=True):
            stack[index] = array
    final_norm = np.array(final_norm, np.float32)
    return PreparedTrunk(
        weights,
        first.kinds,
        first.sizes,
        final_norm,
        output.panels,
        output.kind,
        output.rows,
        epsilon,
        _no_tree(len(blocks)),
    )


def _stack(array, count):
    return (
        aligned_zeros((count, *array.shape))
        if array.dtype == np.uint8
        else np.empty((count, *array.shape), array.dtype)
    )


def trunk_step(x, trunk, keys, values, start, cosine, sine, tree=None):
    logits, hidden = np.empty((len(x), trunk.vocabulary), np.float32), np.empty_like(x)
    _trunk_step(
        x, *trunk.weights, trunk.kinds, trunk.sizes, trunk.epsilon, keys, values, start, cosine,
        sine, trunk.final_norm, hidden, trunk.output_kind, trunk.output, logits,
        *(tree or trunk.no_tree),
    )  # fmt: skip
    return logits, hidden


@compiled
def _trunk_step(
    x,
    attention_norm,
    qkv,
    attention_output,
    feed_forward_norm,
    gate_up,
    down,
    qkv_bias,
    query_norm,
    key_norm,
    kinds,
    sizes,
    epsilon,
    keys,
    values,
    start,
    cosine,
    sine,
    final_norm,
    hidden,
    output_kind,
    output,
    logits,
    stretches,
    kept_keys,
    kept_values,
):
    if not keys.shape[0] == values.shape[0] == attention_norm.shape[0]:
        raise ValueError("trunk_step: the caches are not one for each block")
    for i in range(keys.shape[0]):
        _transformer_block(
            x, attention_norm[i], qkv[i], attention_output[i], feed_forward_norm[i], gate_up[i],
            down[i], qkv_bias[i], query_norm[i], key_norm[i], kinds, sizes, epsilon, keys[i],
            values[i], start, cosine, sine, stretches,
            kept_keys[i], kept_values[i],
        )  # fmt: skip
    normalize(x, final_norm, epsilon, hidden, np.empty(x.shape[0], np.float32))
    multiply(output_kind, hidden, output, logits)


def transformer_block(x, block, keys, values, start, cosine, sine, tree=None):
    _transformer_block(
        x,
        *block.weights,
        block.kinds,
        block.sizes,
        block.epsilon,
        keys,
        values,
        start,
        cosine,
        sine,
        *(tree or NO_TREE),
    )


@compiled
def _transformer_block(
    x,
    attention_norm,
    qkv,
    attention_output,
    feed_forward_norm,
    gate_up,
    down,
    qkv_bias,
    query_norm,
    key_norm,
    kinds,
    sizes,
    epsilon,
    keys,
    values,
    start,
    cosine,
    sine,
    stretches,
    kept_keys,
    kept_values,
):
    rows = x.shape[0]
    heads, joined_width, inner_width = sizes
    groups, head_dim, room = keys.shape
    chain = stretches.shape[0] == 0
    if start < 0 or (chain and start + rows > room) or values.shape != (room, groups, head_dim):
        raise ValueError("transformer_block: the rows do not fit the cache")
    angles = (rows, head_dim // 2)
    if (
        joined_width != (heads + 2 * groups) * head_dim
        or cosine.shape != angles
        or sine.shape != angles
    ):
        raise ValueError("transformer_block: the rotation or the cache does not fit the weights")
    normed, joined = np.empty_like(x), np.empty((rows, joined_width), np.float32)
    project(
        x, attention_norm, qkv, qkv_bias, query_norm, key_norm, kinds[0], heads, groups, epsilon,
        normed, joined,
    )  # fmt: skip
    joined_heads = joined.reshape(rows, heads + 2 * groups, head_dim)
    attended = np.empty((rows, heads, head_dim), np.float32)
    for stretch in range(max(1, stretches.shape[0])):
        first, stop, position = 0, rows, start
        if not chain:
            first = stretches[stretch, 0]
            stop = stretches[stretch, 1]
            position = stretches[stretch, 2]
        if not (0 <= first < stop <= rows and 0 <= position <= room - (stop - first)):
            raise ValueError("transformer_block: the rows do not fit the cache")
        q = np.empty((groups, (stop - first) * (heads // groups), head_dim), np.float32)
        at = slice(first, stop)
        rotate_and_store(joined_heads[at], cosine[at], sine[at], q, keys, values, position)
        attend(q, keys, values, position, head_dim**-0.5, attended[at])
        if not chain:
            for t in range(stop - first):
                kept_keys[first + t] = keys[:, :, position + t]
                kept_values[first + t] = values[position + t]
    add_outputs(
        x, attended.reshape(rows, heads * head_dim), attention_output, feed_forward_norm, gate_up,
        down, kinds, epsilon, normed, np.empty((2 * rows + 1) * inner_width, np.float32),
    )  # fmt: skip


@compiled
def project(
    x, norm, qkv, qkv_bias, query_norm, key_norm, kind, heads, groups, epsilon, normed, joined
):
    """Write the queries, keys and values of x (T, D), before their rotation, to joined (T, (H + 2G)
    C). normed (T, D) is overwritten.
    """
    rows, width = joined.shape
    normalize(x, norm, epsilon, normed, np.empty(rows, np.float32))
    multiply(kind, normed, qkv, joined)
    if qkv_bias.shape[0] > 0:
        for t in range(rows):
            for j in range(width):
                joined[t, j] += qkv_bias[j]
    if query_norm.shape[0] > 0:
        joined_heads = joined.reshape(rows, heads + 2 * groups, query_norm.shape[0])
        inverse_rms = np.empty(heads, np.float32)
        for t in range(rows):
            queries, keys_now = joined_heads[t, :heads], joined_heads[t, heads : heads + groups]
            normalize(queries, query_norm, epsilon, queries, inverse_rms)
            normalize(keys_now, key_norm, epsilon, keys_now, inverse_rms)


@compiled
def add_outputs(
    x, attended, attention_output, feed_forward_norm, gate_up, down, kinds, epsilon, normed, shared
):
    """Add to x (T, D) what attention found, attended (T, H C), and then the feed-forward part.
    normed (T, D) and shared ((2 T + 1) inner,) are overwritten.
    """
    rows = x.shape[0]
    inner_width = shared.shape[0] // (2 * rows + 1)
    multiply(kinds[1], attended, attention_output, normed)
    add(x, normed)
    normalize(x, feed_forward_norm, epsilon, normed, np.empty(rows, np.float32))
    # The outputs of SwiGLU overwrite the gates of earlier rows. They never overwrite the gates of
    # their own row, because then the loop would not be vectorized (a pass of quick's int4 model
    # would take 30 us instead of 25).
    gates = shared[inner_width:].reshape(rows, 2 * inner_width)
    inner = shared[: rows * inner_width].reshape(rows, inner_width)
    multiply(kinds[2], normed, gate_up, gates)
    swiglu_rows(gates, inner)
    multiply(kinds[3], inner, down, normed)
    add(x, normed)


@compiled
def add(x, y):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] += y[i, j]


@compiled
def rotate_and_store(joined, cosine, sine, q, keys, values, start):
    """Write the rotated queries to q (G, T * H/G, C). Write the rotated keys and the values to the
    cache, from position `start` on.
    """
    (rows, _, head_dim), groups = joined.shape, q.shape[0]
    shared, halves = q.shape[1] // rows, head_dim // 2
    for t in range(rows):
        for g in range(groups):
            for h in range(shared):
                head, row = g * shared + h, t * shared + h
                for j in range(halves):
                    even, odd = joined[t, head, 2 * j], joined[t, head, 2 * j + 1]
                    q[g, row, 2 * j] = even * cosine[t, j] - odd * sine[t, j]
                    q[g, row, 2 * j + 1] = even * sine[t, j] + odd * cosine[t, j]
            head = groups * shared + g
            for j in range(halves):
                even, odd = joined[t, head, 2 * j], joined[t, head, 2 * j + 1]
                keys[g, 2 * j, start + t] = even * cosine[t, j] - odd * sine[t, j]
                keys[g, 2 * j + 1, start + t] = even * sine[t, j] + odd * cosine[t, j]
            head += groups
            for c in range(head_dim):
                values[start + t, g, c] = joined[t, head, c]
