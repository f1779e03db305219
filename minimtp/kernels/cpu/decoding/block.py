"""One transformer block, or a whole trunk, on a few new tokens in one compiled call.

The arithmetic of a small model's block takes three to ten microseconds. Eleven calls from Python,
each of which allocates an array, take longer. Here, compiled code calls the same kernels, so the
results are bit-identical. `kernels/plain/decoding/block.py` defines the computation.

Several threads can compute a trunk together (team.py). What one thread writes for the others to
read is in `shared`, what is its own in arrays that it allocates. Whatever is small is computed by
each thread for itself: norms, the rounding of activations, and the sums of the residual stream. So
a block has five meetings: after the queries, keys and values, the attention, its output, SwiGLU,
and the last product.
"""

from dataclasses import dataclass

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.decoding.attention import attend
from minimtp.kernels.cpu.decoding.stored_rows import ABSENT, compiled_cache, store_row
from minimtp.kernels.cpu.decoding.team import meet, share
from minimtp.kernels.cpu.gates import swiglu_columns
from minimtp.kernels.cpu.matrices.packed_linear import multiply
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.norms import normalize

NOTHING = np.empty(0, np.float32)  # shared with other threads
ALONE = np.zeros(1, np.int64), 0, 1  # meeting, rank and size of a team of one


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


def transformer_block(x, block, keys, values, start, cosine, sine, tree=None, steps=None):
    attended_width = block.sizes[0] * values.shape[2]
    shared = shared_arrays(NOTHING, np.empty_like(x), attended_width, block.sizes)
    keys, values, steps, *tree = compiled_cache(keys, values, steps, tree, ABSENT)
    compiled_block(
        x, *block.weights, block.kinds, block.sizes, block.epsilon, keys, values, steps, start,
        cosine, sine, *tree, *shared, *ALONE,
    )  # fmt: skip


@compiled
def numbers_shared(rows, hidden_width, attended_width, sizes):
    """Return the size of `shared` for `shared_arrays`."""
    _, joined_width, inner_width = sizes
    joined_or_gates = max(joined_width, 2 * inner_width)
    return rows * (joined_or_gates + max(attended_width, inner_width) + hidden_width)


@compiled
def shared_arrays(shared, outputs, attended_width, sizes):
    """Return what the threads of a block write for one another: joined (T, (H + 2G) C), attended
    (T, H C), gates (T, 2 F), inner (T, F), and the outputs of attention or of the feed-forward part
    (T, D).

    shared: memory for them. Two of them have the same memory if every thread has read the one
    before any thread writes the other. If it is empty, one thread is alone. Then the last array is
    `outputs`, and the others are empty: the block allocates its own and frees each after its last
    use, which takes less memory.
    """
    (rows, hidden_width), (_, joined_width, inner_width) = outputs.shape, sizes
    if shared.shape[0] == 0:
        nothing = np.empty((0, 0), np.float32)
        return nothing, nothing, nothing, nothing, outputs
    second = rows * max(joined_width, 2 * inner_width)
    third = second + rows * max(attended_width, inner_width)
    return (
        shared[: rows * joined_width].reshape(rows, joined_width),
        shared[second : second + rows * attended_width].reshape(rows, attended_width),
        shared[: rows * 2 * inner_width].reshape(rows, 2 * inner_width),
        shared[second : second + rows * inner_width].reshape(rows, inner_width),
        shared[third:].reshape(rows, hidden_width),
    )


@compiled
def compiled_block(
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
    steps,
    start,
    cosine,
    sine,
    stretches,
    kept_keys,
    kept_values,
    kept_steps,
    joined,
    attended,
    gates,
    inner,
    outputs,
    meeting,
    rank,
    size,
):
    rows = x.shape[0]
    heads, joined_width, inner_width = sizes
    room, groups, head_dim = values.shape
    chain = stretches.shape[0] == 0
    panels = (room + PANEL - 1) // PANEL
    fits = keys.shape == (groups, panels, head_dim, PANEL)
    if start < 0 or (chain and start + rows > room) or not fits:
        raise ValueError("transformer_block: the rows do not fit the cache")
    angles = (rows, head_dim // 2)
    if (
        joined_width != (heads + 2 * groups) * head_dim
        or cosine.shape != angles
        or sine.shape != angles
    ):
        raise ValueError("transformer_block: the rotation or the cache does not fit the weights")
    if size == 1:
        joined = np.empty((rows, joined_width), np.float32)
        attended = np.empty((rows, heads * head_dim), np.float32)
    normed = outputs if size == 1 else np.empty(x.shape, np.float32)
    project(
        x, attention_norm, qkv, qkv_bias, kinds[0], epsilon, normed, joined, meeting, rank, size
    )  # fmt: skip
    first_group, stop_group = share(groups, rank, size)
    joined_heads = joined.reshape(rows, heads + 2 * groups, head_dim)
    attended_heads = attended.reshape(rows, heads, head_dim)
    normalize_heads(joined_heads, query_norm, key_norm, epsilon, groups, first_group, stop_group)
    for stretch in range(max(1, stretches.shape[0])):
        first, stop, position = 0, rows, start
        if not chain:
            first = stretches[stretch, 0]
            stop = stretches[stretch, 1]
            position = stretches[stretch, 2]
        if not (0 <= first < stop <= rows and 0 <= position <= room - (stop - first)):
            raise ValueError("transformer_block: the rows do not fit the cache")
        at = slice(first, stop)
        attend_to_cache(
            joined_heads[at], cosine[at], sine[at], keys, values, steps, position, first_group,
            stop_group, attended_heads[at],
        )  # fmt: skip
        if not chain:
            for t in range(stop - first):
                for g in range(max(first_group, 0), stop_group):
                    panel, place = divmod(position + t, PANEL)
                    kept_keys[first + t, g] = keys[g, panel, :, place]
                    kept_values[first + t, g] = values[position + t, g]
                    if steps.size > 0:
                        kept_steps[first + t, :, g] = steps[:, g, position + t]
    meet(meeting, size)
    add_outputs(
        x, attended, attention_output, feed_forward_norm, gate_up, down, kinds, inner_width,
        epsilon, normed, gates, inner, outputs, meeting, rank, size,
    )  # fmt: skip


@compiled
def project(x, norm, qkv, qkv_bias, kind, epsilon, normed, joined, meeting, rank, size):
    """Write the queries, keys and values of x (T, D) to joined (T, (H + 2G) C). normed (T, D) is
    overwritten.
    """
    rows, width = joined.shape
    normalize(x, norm, epsilon, normed, np.empty(rows, np.float32))
    first, stop = share(qkv.shape[0], rank, size)
    multiply(kind, normed, qkv, first, stop, joined)
    if qkv_bias.shape[0] > 0:
        for t in range(rows):
            for j in range(first * PANEL, min(stop * PANEL, width)):
                joined[t, j] += qkv_bias[j]
    meet(meeting, size)


@compiled
def normalize_heads(joined, query_norm, key_norm, epsilon, groups, first_group, stop_group):
    """Normalize the queries and the keys of some groups in joined (T, H + 2G, C), if the model
    does.
    """
    if query_norm.shape[0] == 0:
        return
    heads = joined.shape[1] - 2 * groups
    shared = heads // groups
    inverse_rms = np.empty(heads, np.float32)
    for t in range(joined.shape[0]):
        queries = joined[t, first_group * shared : stop_group * shared]
        keys = joined[t, heads + first_group : heads + stop_group]
        normalize(queries, query_norm, epsilon, queries, inverse_rms)
        normalize(keys, key_norm, epsilon, keys, inverse_rms)


@compiled
def attend_to_cache(
    joined, cosine, sine, keys, values, steps, position, first_group, stop_group, attended
):
    """Write the keys and values of some groups in joined (T, H + 2G, C) to the cache, from
    `position` on, and what their queries find in it to attended (T, H, C).
    """
    (rows, together, head_dim), groups = joined.shape, keys.shape[0]
    q = np.empty((groups, rows * (together // groups - 2), head_dim), np.float32)
    rotate_and_store(
        joined, cosine, sine, q, keys, values, steps, position, first_group, stop_group
    )
    attend(q, keys, values, position, head_dim**-0.5, steps, first_group, stop_group, attended)


@compiled
def add_outputs(
    x,
    attended,
    attention_output,
    feed_forward_norm,
    gate_up,
    down,
    kinds,
    inner_width,
    epsilon,
    normed,
    gates,
    inner,
    outputs,
    meeting,
    rank,
    size,
):
    """Add to x (T, D) what attention found, attended (T, H C), and then the feed-forward part. The
    arrays of `shared_arrays` and normed (T, D) are overwritten.
    """
    rows = x.shape[0]
    first, stop = share(attention_output.shape[0], rank, size)
    multiply(kinds[1], attended, attention_output, first, stop, outputs)
    meet(meeting, size)
    add(x, outputs)

    normalize(x, feed_forward_norm, epsilon, normed, np.empty(rows, np.float32))
    if size == 1:
        # The outputs of SwiGLU overwrite the gates of earlier rows. They never overwrite the gates
        # of their own row, because then the loop would not be vectorized.
        memory = np.empty((2 * rows + 1) * inner_width, np.float32)
        gates = memory[inner_width:].reshape(rows, 2 * inner_width)
        inner = memory[: rows * inner_width].reshape(rows, inner_width)
    # A thread computes a gate and what it is multiplied by. Alone, it computes all in one product.
    halves = 1 if size == 1 else 2
    panels = gate_up.shape[0] // halves
    first, stop = share(panels, rank, size)
    for half in range(halves):
        multiply(kinds[2], normed, gate_up, half * panels + first, half * panels + stop, gates)
    if size == 1:
        first, stop = 0, inner.shape[1]
    else:
        first, stop = first * PANEL, stop * PANEL
    swiglu_columns(gates, first, stop, inner)
    meet(meeting, size)

    first, stop = share(down.shape[0], rank, size)
    multiply(kinds[3], inner, down, first, stop, outputs)
    meet(meeting, size)
    add(x, outputs)


@compiled
def add(x, y):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] += y[i, j]


@compiled
def rotate_and_store(joined, cosine, sine, q, keys, values, steps, start, first_group, stop_group):
    """Write the rotated queries of some groups to q (G, T * H/G, C). Write their rotated keys and
    their values to the cache, from position `start` on.
    """
    (rows, _, head_dim), groups = joined.shape, q.shape[0]
    shared, halves = q.shape[1] // rows, head_dim // 2
    key = np.empty(head_dim, np.float32)
    for t in range(rows):
        panel, place = divmod(start + t, PANEL)
        for g in range(max(first_group, 0), stop_group):
            for h in range(shared):
                head, row = g * shared + h, t * shared + h
                for j in range(halves):
                    even, odd = joined[t, head, 2 * j], joined[t, head, 2 * j + 1]
                    q[g, row, 2 * j] = even * cosine[t, j] - odd * sine[t, j]
                    q[g, row, 2 * j + 1] = even * sine[t, j] + odd * cosine[t, j]
            head = groups * shared + g
            for j in range(halves):
                even, odd = joined[t, head, 2 * j], joined[t, head, 2 * j + 1]
                key[2 * j] = even * cosine[t, j] - odd * sine[t, j]
                key[2 * j + 1] = even * sine[t, j] + odd * cosine[t, j]
            store_row(key, keys[g, panel, :, place], steps[0], g, start + t)
            store_row(joined[t, head + groups], values[start + t, g], steps[1], g, start + t)
