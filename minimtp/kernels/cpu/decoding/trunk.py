"""A whole trunk on a few new tokens in one compiled call, by one thread or several (team.py)."""

from dataclasses import dataclass, replace

from minimtp.backend import Array, aligned_zeros
from minimtp.backend import numpy as np
from minimtp.kernels.cpu.compiling import compiled
from minimtp.kernels.cpu.decoding.block import (
    ALONE,
    NOTHING,
    compiled_block,
    numbers_shared,
    prepare_block,
    shared_arrays,
)
from minimtp.kernels.cpu.decoding.stored_rows import absent_arrays, compiled_cache
from minimtp.kernels.cpu.decoding.team import Team, meet, share
from minimtp.kernels.cpu.matrices.packed_linear import multiply
from minimtp.kernels.cpu.matrices.panels import PANEL
from minimtp.kernels.cpu.norms import normalize

NO_INPUTS = np.empty((0, 0, 0), np.float32)


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
    absent: tuple  # of `absent_arrays`
    layers: np.ndarray  # int64 (F,), whose inputs a step returns
    graphs: None = None  # only the GPU records passes
    team: Team | None = None  # of threads that compute a pass together


def prepare_trunk(blocks, final_norm, output, heads, epsilon, layers=()):
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
        absent_arrays(len(blocks)),
        np.array(layers, np.int64),
    )


def _stack(array, count):
    return (
        aligned_zeros((count, *array.shape))
        if array.dtype == np.uint8
        else np.empty((count, *array.shape), array.dtype)
    )


def with_threads(trunk, count):
    """Return a prepared trunk that this many threads compute together, if they can."""
    divides = trunk.sizes[2] % PANEL == 0  # a thread needs the same panels of both halves of SwiGLU
    return replace(trunk, team=Team(count) if count > 1 and divides else None)


def trunk_step(x, trunk, keys, values, start, cosine, sine, tree=None, steps=None):
    logits, hidden = np.empty((len(x), trunk.vocabulary), np.float32), np.empty_like(x)
    inputs = NO_INPUTS
    if len(trunk.layers):
        inputs = np.empty((len(x), len(trunk.layers), x.shape[1]), np.float32)
    keys, values, steps, *tree = compiled_cache(keys, values, steps, tree, trunk.absent)
    arguments = (
        *trunk.weights, trunk.kinds, trunk.sizes, trunk.epsilon, keys, values, steps, start, cosine,
        sine, trunk.layers, inputs, trunk.final_norm, trunk.output_kind, trunk.output, logits,
        *tree,
    )  # fmt: skip
    if trunk.team is None or not _in_team(trunk, x, hidden, values.shape[3], arguments):
        _trunk_step(x, hidden, *arguments, NOTHING, *ALONE)
    if len(trunk.layers):
        hidden = np.concatenate([hidden, inputs.reshape(len(x), -1)], axis=1)
    return logits, hidden


def _in_team(trunk, x, hidden, head_dim, arguments):
    """Let the team of the trunk compute a step. Return whether it could."""
    numbers = numbers_shared(*x.shape, trunk.sizes[0] * head_dim, trunk.sizes)
    shared = np.empty(numbers, np.float32)
    # Each thread adds up the residual stream for itself.
    own = [(x, hidden), *((x.copy(), hidden.copy()) for _ in range(trunk.team.size - 1))]

    def work(rank, size, meeting):
        _trunk_step(*own[rank], *arguments, shared, meeting, rank, size)

    return trunk.team.run(work)


@compiled
def _trunk_step(
    x,
    hidden,
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
    layers,
    inputs,
    final_norm,
    output_kind,
    output,
    logits,
    stretches,
    kept_keys,
    kept_values,
    kept_steps,
    shared,
    meeting,
    rank,
    size,
):
    if not keys.shape[0] == values.shape[0] == attention_norm.shape[0]:
        raise ValueError("trunk_step: the caches are not one for each block")
    joined, attended, gates, inner, outputs = shared_arrays(
        shared, hidden, sizes[0] * values.shape[3], sizes
    )
    for i in range(keys.shape[0]):
        _keep_input(i, x, layers, inputs, rank)
        compiled_block(
            x, attention_norm[i], qkv[i], attention_output[i], feed_forward_norm[i], gate_up[i],
            down[i], qkv_bias[i], query_norm[i], key_norm[i], kinds, sizes, epsilon, keys[i],
            values[i], steps[i], start, cosine, sine, stretches, kept_keys[i], kept_values[i],
            kept_steps[i], joined, attended, gates, inner, outputs, meeting, rank, size,
        )  # fmt: skip
    _keep_input(keys.shape[0], x, layers, inputs, rank)
    normalize(x, final_norm, epsilon, hidden, np.empty(x.shape[0], np.float32))
    first, stop = share(output.shape[0], rank, size)
    multiply(output_kind, hidden, output, first, stop, logits)
    meet(meeting, size)


@compiled
def _keep_input(layer, x, layers, inputs, rank):
    """Copy x (T, D), the input of a layer, to its places in inputs (T, F, D). All threads have it;
    the first one copies.
    """
    if rank == 0:
        for place in range(layers.shape[0]):
            if layers[place] == layer:
                inputs[:, place] = x
