"""A transformer block, or the whole trunk, on a few new tokens, in plain array code.

The compiled version is one call, because eleven calls from Python take longer than the arithmetic
of a small model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minimtp.backend import Array, array_module, numpy
from minimtp.kernels.plain.attention import cached_attention, rotate
from minimtp.kernels.plain.cache import KEY_PANEL, as_stored, decoded, first_panels, require_steps
from minimtp.kernels.plain.gates import swiglu
from minimtp.kernels.plain.norms import rms_norm
from minimtp.kernels.plain.packed_linear import Prepared, linear


class BlockWeights(NamedTuple):
    """One transformer block's weights: two norms (D,), four matrices prepared by `prepare_*`, and
    what only some families of models have.
    """

    attention_norm: Array
    qkv: Prepared
    attention_output: Prepared
    feed_forward_norm: Array
    gate_up: Prepared
    down: Prepared
    qkv_bias: Array | None = None  # ((H + 2G) C,)
    query_norm: Array | None = None  # (C,), if every query head and key head is normalized
    key_norm: Array | None = None  # (C,)


class TreeArrays(NamedTuple):
    """The arguments of a draft tree, explained in `transformer_block`. For a whole trunk, keys,
    values and steps begin with an axis of its L blocks.
    """

    stretches: Array  # int64 (number, 3)
    keys: Array  # (T, G, C), as in the cache
    values: Array  # (T, G, C)
    steps: Array | None = None  # float32 (T, 2, G), of an int8 cache

    def of_block(self, i: int) -> "TreeArrays":
        steps = None if self.steps is None else self.steps[i]
        return TreeArrays(self.stretches, self.keys[i], self.values[i], steps)


def stretches(depths: Sequence[int], start: int) -> numpy.ndarray:
    """Split a tree in depth-first order into chains: int64 (chains, 3).

    Each chain is its first row, the row after its last, and the position of its first row. The root
    is at position `start`.
    """
    firsts = [row for row, depth in enumerate(depths) if row == 0 or depth != depths[row - 1] + 1]
    stops = [*firsts[1:], len(depths)]
    rows = [(a, b, start + depths[a]) for a, b in zip(firsts, stops, strict=True)]
    return numpy.array(rows, numpy.int64)


@dataclass(frozen=True)
class PreparedBlock:
    """One transformer block's weights and settings."""

    weights: BlockWeights
    heads: int  # query heads
    epsilon: float
    # What the cache stores of keys and values, (T, G, C) -> (T, G, C). None: the numbers
    # themselves.
    quantize_kv: Callable[[Array], Array] | None = None


def prepare_block(weights: BlockWeights, heads: int, epsilon: float) -> PreparedBlock:
    """Prepare one transformer block with `heads` query heads for `transformer_block`."""
    return PreparedBlock(weights, heads, epsilon)


def transformer_block(
    x: Array,
    block: PreparedBlock,
    keys: Array,
    values: Array,
    start: int,
    cosine: Array,
    sine: Array,
    tree: TreeArrays | None = None,
    steps: Array | None = None,
) -> None:
    """A whole block on T new tokens:  x += Attention(norm(x));  x += FeedForward(norm(x)).  All IN
    PLACE.

    x (T, D) is overwritten. The tokens' keys and values are written to positions start..start+T-1
    of the cache, keys (G, N, C, P) and values (S, G, C), of the type of x, float16 or int8, to
    which they are rounded. Its positions before `start` hold the past.
    cosine and sine (T, C/2) rotate to the positions from `start`. All arrays are contiguous.
    steps: float32 (2, G, N P), of the keys and of the values of an int8 cache.

    tree: if the tokens are a tree in depth-first order instead of a chain. A stretch is a chain of
    rows, int64 (first row, row after the last, position of the first). The cache serves as the
    walk's stack: a row is written to the position of its depth.
    When a stretch has been written, the positions before it hold its ancestors, because rows
    written since then lie deeper. So each row attends to exactly the numbers that it would attend
    to in a chain. The walk overwrites positions, so the keys and values of all rows are also copied
    to the tree's own arrays. cosine and sine rotate each row to its own position.

    Raises ValueError if the rows do not fit the cache, or the steps do not fit the keys.
    """
    rows = len(x)
    room, kv_heads, head_dim = values.shape
    stretches = [(0, rows, start)] if tree is None else tree.stretches.tolist()
    if start < 0 or any(position + stop - first > room for first, stop, position in stretches):
        raise ValueError(f"{rows} rows after {start} do not fit a cache of {room}")
    require_steps(keys, steps)
    weights = block.weights
    normed, _ = rms_norm(x, weights.attention_norm, block.epsilon)
    joined = linear(normed, weights.qkv)
    if weights.qkv_bias is not None:
        joined += weights.qkv_bias
    joined = joined.reshape(1, rows, -1, head_dim)  # q, k, v: (1, T, H+2G, C)
    if weights.query_norm is not None:
        normalize_heads(joined[0], block)
    rotated = rotate(joined[:, :, : block.heads + kv_heads], cosine, sine)[0]  # (T, H+G, C)
    queries, new_keys = rotated[:, : block.heads], rotated[:, block.heads :]
    new_values = joined[0, :, block.heads + kv_heads :]
    if block.quantize_kv is not None:
        new_keys, new_values = block.quantize_kv(new_keys), block.quantize_kv(new_values)
    xp = array_module(x)
    new_keys, key_steps = as_stored(new_keys, keys.dtype)
    new_values, value_steps = as_stored(new_values, keys.dtype)
    new_steps = None if steps is None else xp.stack([key_steps, value_steps], axis=1)  # (T, 2, G)
    outputs = []
    for first, stop, position in stretches:
        at = xp.arange(position, position + stop - first)
        keys[:, at // KEY_PANEL, :, at % KEY_PANEL] = new_keys[first:stop]
        values[at] = new_values[first:stop]
        if steps is not None:
            steps[:, :, at] = new_steps[first:stop].transpose(1, 2, 0)
        cache = first_panels(keys, position + stop - first), values[: position + stop - first]
        if steps is not None:
            cache = decoded(*cache, steps)
        outputs.append(cached_attention(queries[first:stop], *cache, position, head_dim**-0.5))
    if tree is not None:
        tree.keys[...] = new_keys
        tree.values[...] = new_values
        if steps is not None:
            tree.steps[...] = new_steps
    attended = xp.concatenate(outputs) if tree else outputs[0]  # (T, H, C)
    x += linear(attended.reshape(rows, -1), weights.attention_output)
    normed, _ = rms_norm(x, weights.feed_forward_norm, block.epsilon)
    x += linear(swiglu(linear(normed, weights.gate_up)), weights.down)


def normalize_heads(joined: Array, block: PreparedBlock) -> None:
    """Normalize each query head and key head of joined (T, H+2G, C) over its channels, IN PLACE."""
    heads, kv_heads = block.heads, (joined.shape[1] - block.heads) // 2
    norms = block.weights.query_norm, block.weights.key_norm
    for part, norm in zip((slice(heads), slice(heads, heads + kv_heads)), norms, strict=True):
        rows = joined[:, part].reshape(-1, joined.shape[2])  # a copy
        joined[:, part] = rms_norm(rows, norm, block.epsilon)[0].reshape(joined[:, part].shape)


@dataclass(frozen=True)
class PreparedTrunk:
    """All blocks, the final norm (D,), and the output, a matrix prepared by `prepare_*`."""

    blocks: tuple[PreparedBlock, ...]
    final_norm: Array
    output: Prepared
    epsilon: float
    layers: tuple[int, ...] = ()  # whose inputs a step returns; L means the last block's output
    graphs: None = None  # only the GPU records passes
    team: None = None  # only compiled kernels compute a pass in several threads


def prepare_trunk(
    blocks: Sequence[Callable[[], BlockWeights]],
    final_norm: Array,
    output: Prepared,
    heads: int,
    epsilon: float,
    layers: tuple[int, ...] = (),
) -> PreparedTrunk:
    """Prepare a trunk for `trunk_step`, which returns the inputs of these F layers, too.

    blocks: for each block a function that returns its weights. The functions are called one after
    the other, so that there are never two copies of all the weights at the same time. All blocks
    must have the same sizes and formats.
    """
    prepared = tuple(prepare_block(weights(), heads, epsilon) for weights in blocks)
    return PreparedTrunk(prepared, final_norm, output, epsilon, layers)


def with_threads(trunk: PreparedTrunk, count: int) -> PreparedTrunk:
    """Return the trunk, such that `count` threads of the processor compute each of its steps
    together, where a kernel can do that. The results have the same bits with any number.
    """
    return trunk


def trunk_step(
    x: Array,
    trunk: PreparedTrunk,
    keys: Array,
    values: Array,
    start: int,
    cosine: Array,
    sine: Array,
    tree: TreeArrays | None = None,
    steps: Array | None = None,
) -> tuple[Array, Array]:
    """T new tokens through every block, the final norm and the output -> logits (T, V), hidden (T,
    (1 + F) D): the state after the final norm, and the inputs of the F layers of the trunk.

    x (T, D) is overwritten. keys (L, G, N, C, P) and values (L, S, G, C) are the caches of the L
    blocks, and steps (L, 2, G, N P) belong to int8 caches. The rest is as in `transformer_block`.
    """
    inputs = LayerInputs(trunk.layers)
    for i, block in enumerate(trunk.blocks):
        inputs.keep(i, x)
        block_tree = None if tree is None else tree.of_block(i)
        block_steps = None if steps is None else steps[i]
        transformer_block(
            x, block, keys[i], values[i], start, cosine, sine, block_tree, block_steps
        )
    inputs.keep(len(trunk.blocks), x)
    hidden, _ = rms_norm(x, trunk.final_norm, trunk.epsilon)
    return linear(hidden, trunk.output), inputs.beside(hidden)


class LayerInputs:
    """The inputs of some layers in one step."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self._layers = layers
        self._kept: dict[int, Array] = {}

    def keep(self, layer: int, x: Array) -> None:
        """Keep a copy of x (T, D), the input of this layer, if it is one of them."""
        if layer in self._layers:
            self._kept[layer] = x.copy()

    def beside(self, hidden: Array) -> Array:
        """hidden (T, D) -> (T, (1 + F) D): hidden, and the inputs of the F layers."""
        if not self._layers:
            return hidden
        parts = [hidden, *(self._kept[layer] for layer in self._layers)]
        return array_module(hidden).concatenate(parts, axis=1)
