"""Decoding on the GPU: attention over the cache and a whole transformer block.

`kernels/plain` has a readable function of the same name for each. `start`, the position of the
first new token, may be a device array of one int32 instead of a number. Then a recorded CUDA graph
can be replayed at any position (graph.py).
"""

from dataclasses import dataclass

from minimtp.backend import array_module, is_array
from minimtp.kernels import plain
from minimtp.kernels.cuda.graph import Graphs
from minimtp.kernels.cuda.packed_linear import add_linear, linear
from minimtp.kernels.cuda.source import NOWHERE, blocks_for, launch, whole
from minimtp.kernels.cuda.training import rms_norm, swiglu
from minimtp.kernels.plain.cache import KEY_PANEL
from minimtp.kernels.plain.decoding.batched_step import each_stretch
from minimtp.kernels.plain.decoding.block import (
    LayerInputs,
    PreparedBlock,
    prepare_block,
    with_threads,
)

__all__ = [
    "batched_trunk_step", "cached_attention", "prepare_block", "prepare_trunk", "transformer_block",
    "trunk_step", "with_threads",
]  # fmt: skip

CHUNK = 128  # positions of the cache that one block of threads attends to, as in cuda/attention.cu
WIDEST_HEAD = 512  # channels


def _position(start) -> tuple:
    """Return `start` as the kernels' two arguments: a number, and the address of a number to add to
    it.
    """
    on_device = is_array(start) and start.ndim > 0
    return (0, start) if on_device else (int(start), NOWHERE)


def cached_attention(q, keys, values, start, scale):
    """As in `kernels/plain`. Raises ValueError if head_dim is above 512."""
    xp, (tokens, heads, head_dim), (groups, panels, _, _) = array_module(q), q.shape, keys.shape
    if head_dim > WIDEST_HEAD:
        raise ValueError(
            f"a head of {head_dim} channels is wider than the {WIDEST_HEAD} that the kernel takes"
        )
    offset, place = _position(start)
    # A recorded graph serves every position. Blocks beyond the last position return immediately.
    last = len(values) if place is not NOWHERE else offset + tokens
    stretches = blocks_for(last, CHUNK)
    q, keys, values = whole(q, keys, values)
    partial = xp.empty((tokens, heads, stretches, head_dim + 2), xp.float32)
    launch(
        "attention", "cached_attention_partial", (stretches, heads, tokens), CHUNK, q, keys, values,
        heads, groups, head_dim, panels, offset, place, float(scale), partial,
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


def transformer_block(
    x, block: PreparedBlock, keys, values, start, cosine, sine, tree=None, steps=None
):
    """As in `kernels/plain`, for caches in float32. If `start` is on the device, the caller must
    check that the rows fit the cache.
    """
    if steps is not None:
        raise ValueError("the GPU has no int8 cache")
    xp, tokens = array_module(x), x.shape[0]
    heads, (room, groups, head_dim), panels = block.heads, values.shape, keys.shape[1]
    weights = block.weights
    normed, _ = rms_norm(x, weights.attention_norm, block.epsilon)
    joined = linear(normed, weights.qkv)  # (T, (H + 2G) C)
    if weights.qkv_bias is not None:
        joined += weights.qkv_bias
    if weights.query_norm is not None:
        plain.normalize_heads(joined.reshape(tokens, -1, head_dim), block)
    cosine, sine = whole(cosine, sine)
    attended = []
    for first, stop, position in [(0, tokens, start)] if tree is None else tree.stretches.tolist():
        offset, place = _position(position)
        if place is NOWHERE and not 0 <= offset <= room - (stop - first):
            raise ValueError(f"{stop - first} rows after {offset} do not fit a cache of {room}")
        queries, rows = xp.empty((stop - first, heads, head_dim), xp.float32), joined[first:stop]
        launch(
            "pointwise", "rotate_into_cache", (blocks_for(rows.size // 2, 256),), 256, rows,
            cosine[first:stop], sine[first:stop], stop - first, heads, groups, head_dim, panels,
            offset, place, queries, keys, values,
        )  # fmt: skip
        attended.append(cached_attention(queries, keys, values, position, head_dim**-0.5))
        if tree is not None:
            at = xp.arange(offset, offset + stop - first)
            tree.keys[first:stop] = keys[:, at // KEY_PANEL, :, at % KEY_PANEL]
            tree.values[first:stop] = values[at]
    attended = attended[0] if tree is None else xp.concatenate(attended)
    add_linear(attended.reshape(tokens, -1), weights.attention_output, x)
    normed, _ = rms_norm(x, weights.feed_forward_norm, block.epsilon)
    add_linear(swiglu(linear(normed, weights.gate_up)), weights.down, x)


@dataclass(frozen=True)
class PreparedTrunk(plain.PreparedTrunk):
    """A prepared trunk, and the steps recorded with it (decode/model_runner.py): one graph for each
    number of tokens and each cache.
    """

    graphs: Graphs


def prepare_trunk(blocks, final_norm, output, heads, epsilon, layers=()):
    trunk = plain.prepare_trunk(blocks, final_norm, output, heads, epsilon, layers)
    return PreparedTrunk(**{**vars(trunk), "graphs": Graphs()})


def trunk_step(x, trunk, keys, values, start, cosine, sine, tree=None, steps=None):
    """As in `kernels/plain`. `transformer_block` explains `start`."""
    inputs = LayerInputs(trunk.layers)
    for i, (block, block_keys, block_values) in enumerate(
        zip(trunk.blocks, keys, values, strict=True)
    ):
        inputs.keep(i, x)
        block_tree = None if tree is None else tree.of_block(i)
        transformer_block(
            x, block, block_keys, block_values, start, cosine, sine, block_tree, steps
        )
    inputs.keep(len(trunk.blocks), x)
    hidden, _ = rms_norm(x, trunk.final_norm, trunk.epsilon)
    return linear(hidden, trunk.output), inputs.beside(hidden)


def batched_trunk_step(x, trunk, keys, values, stretches, cosine, sine, steps=None):
    """As in `kernels/plain`: correct, but the weights are read once per sequence."""
    return each_stretch(trunk_step, x, trunk, keys, values, stretches, cosine, sine, steps)
