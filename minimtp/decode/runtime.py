"""The trunk as decoding needs it: raw arrays, a cache, and a few tokens at a time.

Training sees whole sequences and records a graph. Decoding sees the one to sixteen tokens that are new, and every call
costs more than its arithmetic. So the same function is written here once more without tensors, over `minimtp.kernels`: the
weights are laid out once for the kernels' products (float, or blocks of 4 or 8 bits), and a step is one call. Tests hold it
equal to the training model.

Verifying K drafts is one `forward` of K + 1 tokens. With the compiled kernels a row's bits do not depend on how many rows
there are, so verification and plain decoding agree exactly.
"""

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from minimtp import kernels
from minimtp.backend import array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeptRows, KeyValueCache
from minimtp.engine.module import Module
from minimtp.engine.tensor import Array
from minimtp.errors import UserError
from minimtp.model.transformer import Attention, Block, Shape, Transformer


class Step(NamedTuple):
    """What one pass says about each of its T tokens."""

    logits: Array  # (T, V): of the token after each
    hidden: Array  # (T, D): the trunk's state after its final norm, for the drafters


def prepare_product(module: Module) -> Any:
    """The matrix of a Linear, an Embedding or a packed module, laid out for the kernels' `linear`.

    Raises TypeError for a fake-quantized module: convert the model first.
    """
    if hasattr(module, "packed"):
        return module.prepare(kernels.for_array(module.packed))
    weight = getattr(module, "weight", None)
    if weight is None or hasattr(module, "grid"):
        raise TypeError(f"a {type(module).__name__} cannot be decoded with; convert the model first")
    return kernels.for_array(weight.data).prepare_f32(weight.data)


TABLE_BYTES = 1 << 20  # of token embeddings that may be kept decoded: lookups are then one indexing


class TokenTable:
    """Token embeddings for lookup: floats, or, for a large packed table, codes and scales decoded row by row when asked for."""

    def __init__(self, module: Module) -> None:
        self.weight = self.codes = self.scales = None
        if not hasattr(module, "packed"):
            self.weight = module.weight.data
        elif 4 * module.shape[0] * module.shape[1] <= TABLE_BYTES:
            self.weight = module.dequantize().astype(module.dtype, copy=False)
        else:
            self.codes, scales = module.unpack()  # (V, D) int8, (V, D/32)
            self.scales = scales.astype(module.dtype)[:, :, None]

    def rows(self, tokens: Array) -> Array:
        """(T,) integers -> (T, D), a new array."""
        if self.weight is not None:
            return self.weight[tokens]
        scales = self.scales[tokens]  # (T, D/32, 1)
        return (self.codes[tokens].reshape(*scales.shape[:2], -1) * scales).reshape(tokens.shape[0], -1)


def _block_weights(block: Block) -> tuple:
    """What the kernels' `prepare_block` wants to know of a block, its matrices laid out."""
    attention, feed_forward = block.attention, block.feed_forward
    if type(attention) is not Attention:
        raise UserError("this model reads its cache in few bits, which no kernel decodes with yet: evaluate can use it")
    return (
        block.attention_norm.weight.data, prepare_product(attention.qkv), prepare_product(attention.output),
        block.feed_forward_norm.weight.data, prepare_product(feed_forward.gate_up), prepare_product(feed_forward.down),
    )  # fmt: skip


class BlockWeights:
    """One block, laid out for the kernels, which compute all of it in one call."""

    def __init__(self, block: Block, shape: Shape) -> None:
        self._kernel = kernels.for_array(block.attention_norm.weight.data)
        weights = _block_weights(block)
        self._prepared = self._kernel.prepare_block(*weights, shape.attention_heads, shape.norm_epsilon)

    def forward(self, x: Array, cache: KeyValueCache, layer: int, cosine: Array, sine: Array) -> None:
        """Put x (T, D) through the block, in place; its keys and values are written behind the cache's rows."""
        keys, values = cache.layer(layer)
        self._kernel.transformer_block(x, self._prepared, keys, values, cache.length, cosine, sine)


def stretches(depths: Sequence[int], start: int) -> np.ndarray:
    """(S, 3) int64: the chains that make up a depth-first walk, each by its first row, the row after its last, and the position
    of its first row in the text, where the root has position `start`."""
    firsts = [row for row, depth in enumerate(depths) if row == 0 or depth != depths[row - 1] + 1]
    return np.array([(a, b, start + depths[a]) for a, b in zip(firsts, [*firsts[1:], len(depths)], strict=True)], np.int64)


class Runtime:
    """A trunk ready to decode: the `Target` of `decode/generate.py`.

    trunk: a Transformer in full precision or converted to packed modules.
    context_length: how many positions the cache has room for; by default what the model was trained with.
    """

    def __init__(self, trunk: Transformer, context_length: int | None = None) -> None:
        self.shape = shape = trunk.shape
        self.vocabulary_size = shape.vocabulary_size
        self.context_length = context_length or shape.context
        self.table = TokenTable(trunk.embedding)
        self.final_norm = trunk.final_norm.weight.data
        self.output = prepare_product(trunk.embedding if trunk.output is None else trunk.output)
        self._kernel = kernels.for_array(self.final_norm)
        blocks = [partial(_block_weights, block) for block in trunk.blocks]
        self._trunk = self._kernel.prepare_trunk(
            blocks, self.final_norm, self.output, shape.attention_heads, shape.norm_epsilon
        )
        self.cosine, self.sine = trunk.blocks[0].attention.rotary.tables(self.context_length, self.final_norm)
        self.cache = KeyValueCache(
            shape.layers, self.context_length, shape.key_value_heads, shape.channels,
            self.final_norm.dtype, array_module(self.final_norm),
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self.cache.length

    def forward(self, tokens: Array) -> Step:
        """Feed (T,) integers behind the cached positions. Raises ValueError when they do not fit the context."""
        start, rows = self.cache.length, tokens.shape[0]
        cosine, sine = self.cosine[start : start + rows], self.sine[start : start + rows]  # (T, C/2)
        x = self.table.rows(array_module(self.final_norm).asarray(tokens))  # (T, D)
        cache = self.cache
        logits, hidden = self._kernel.trunk_step(x, self._trunk, cache.keys, cache.values, start, cosine, sine)
        cache.extend(rows)
        return Step(logits, hidden)

    def twin(self) -> "Runtime":
        """Another one with these weights and an empty cache of its own."""
        other = copy(self)
        other.cache = self.cache.twin()
        return other

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> Step:
        """Feed the rows of a tree, T tokens and their depths in depth-first order. The cache is as before until `keep`.

        Row r's bits are those of a chain that ends with it. Raises ValueError when they do not fit the context.
        """
        xp, cache, start = array_module(self.final_norm), self.cache, self.cache.length
        last = start + max(depths)
        if last >= self.context_length:
            raise ValueError(f"a tree that reaches position {last} does not fit a context of {self.context_length}")
        positions = start + xp.asarray(depths)  # (T,)
        x = self.table.rows(xp.asarray(tokens))  # (T, D)
        self._kept = kept = KeptRows(cache, len(x))
        logits, hidden = self._kernel.trunk_step(
            x, self._trunk, cache.keys, cache.values, start, self.cosine[positions], self.sine[positions],
            (stretches(depths, start), kept.keys, kept.values),
        )  # fmt: skip
        return Step(logits, hidden)

    def keep(self, rows: Sequence[int]) -> None:
        """Add these rows of the tree that was fed last, a path that begins at its root, to the cache."""
        self._kept.append(array_module(self.final_norm).asarray(rows))

    def truncate(self, length: int) -> None:
        """Forget the positions at and beyond `length`."""
        self.cache.truncate(length)


