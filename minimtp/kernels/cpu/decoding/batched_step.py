"""The trunk on new tokens of several sequences in one compiled call.

`kernels/plain/decoding/batched_step.py` defines the computation. The products of a row do not
depend on the other rows, and neither does attention, so a sequence gets the bits that it would get
alone.
"""

from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.decoding.attention import numbers_of
from minimtp.kernels.cpu.decoding.block import (
    add_outputs,
    attend_to_cache,
    normalize_heads,
    project,
)
from minimtp.kernels.cpu.matrices.packed_linear import multiply
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.norms import normalize
from minimtp.kernels.plain.cache import require_steps


def batched_trunk_step(x, trunk, keys, values, stretches, cosine, sine, steps=None):
    hidden = np.empty_like(x)
    logits = np.empty((len(stretches), trunk.vocabulary), np.float32)
    require_steps(keys, steps)
    if steps is None:
        steps = np.empty((*keys.shape[:2], 2, 0, 0), np.float32)
    _batched_trunk_step(
        x, *trunk.weights, trunk.kinds, trunk.sizes, trunk.epsilon, numbers_of(keys),
        numbers_of(values), steps, stretches, cosine, sine, trunk.final_norm, hidden,
        trunk.output_kind, trunk.output, logits,
    )  # fmt: skip
    return logits, hidden


@compiled
def _batched_trunk_step(
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
    stretches,
    cosine,
    sine,
    final_norm,
    hidden,
    output_kind,
    output,
    logits,
):
    rows, layers = x.shape[0], attention_norm.shape[0]
    _require_fitting(rows, layers, sizes, keys, values, stretches, cosine, sine)
    heads, groups, head_dim = sizes[0], values.shape[3], values.shape[4]
    joined = np.empty((rows, sizes[1]), np.float32)
    attended = np.empty((rows, heads * head_dim), np.float32)
    outputs, nothing = np.empty_like(x), np.empty((0, 0), np.float32)
    joined_heads = joined.reshape(rows, heads + 2 * groups, head_dim)
    meeting = np.empty(1, np.int64)  # a single thread computes all
    for i in range(layers):
        project(
            x,
            attention_norm[i],
            qkv[i],
            qkv_bias[i],
            kinds[0],
            epsilon,
            outputs,
            joined,
            meeting,
            0,
            1,
        )
        normalize_heads(joined_heads, query_norm[i], key_norm[i], epsilon, groups, 0, groups)
        _attend_in_each_sequence(
            joined_heads, keys, values, steps, i, stretches, cosine, sine,
            attended.reshape(rows, heads, head_dim),
        )  # fmt: skip
        add_outputs(
            x, attended, attention_output[i], feed_forward_norm[i], gate_up[i], down[i], kinds,
            sizes[2], epsilon, outputs, nothing, nothing, outputs, meeting, 0, 1,
        )  # fmt: skip
    normalize(x, final_norm, epsilon, hidden, np.empty(rows, np.float32))
    last = np.empty((stretches.shape[0], x.shape[1]), np.float32)
    for m in range(stretches.shape[0]):
        last[m] = hidden[stretches[m, 1] - 1]
    multiply(output_kind, last, output, 0, output.shape[0], logits)


@compiled
def _require_fitting(rows, layers, sizes, keys, values, stretches, cosine, sine):
    (sequences, cached, room, groups, head_dim), covered = values.shape, 0
    panels = (room + PANEL - 1) // PANEL
    if cached != layers or keys.shape != (sequences, layers, groups, panels, head_dim, PANEL):
        raise ValueError("batched_trunk_step: the caches are not one for each block")
    angles = (rows, head_dim // 2)
    if (
        sizes[1] != (sizes[0] + 2 * groups) * head_dim
        or cosine.shape != angles
        or sine.shape != angles
    ):
        raise ValueError("batched_trunk_step: the rotation or the cache does not fit the weights")
    for m in range(stretches.shape[0]):
        first, stop, sequence, start = stretches[m]
        if (
            first != covered
            or not first < stop <= rows
            or not 0 <= sequence < sequences
            or not 0 <= start <= room - (stop - first)
        ):
            raise ValueError("batched_trunk_step: the rows do not fit the caches")
        covered = stop
    if covered != rows:
        raise ValueError("batched_trunk_step: the stretches do not cover the rows")


@compiled
def _attend_in_each_sequence(joined, keys, values, steps, layer, stretches, cosine, sine, attended):
    """Write the attention of joined (T, H + 2G, C) to attended (T, H, C), and the keys and values
    to the caches of `layer`.
    """
    for m in range(stretches.shape[0]):
        first, stop, sequence, start = stretches[m]
        at = slice(first, stop)
        attend_to_cache(
            joined[at], cosine[at], sine[at], keys[sequence, layer], values[sequence, layer],
            steps[sequence, layer], start, 0, keys.shape[2], attended[at],
        )  # fmt: skip
