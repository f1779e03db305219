"""The trunk as decoding needs it: raw arrays, a cache, and a few tokens at a time.

Training sees whole sequences and records a graph. Decoding sees the one to sixteen tokens that are new, and every call
costs more than its arithmetic. So the same function is written here once more without tensors, over `minimtp.kernels`: the
weights are laid out once for the kernels' products (float, or blocks of 4 or 8 bits), and a step is one call. Tests hold it
equal to the training model.

Verifying K drafts is one `forward` of K + 1 tokens. With the compiled kernels a row's bits do not depend on how many rows
there are, so verification and plain decoding agree exactly (on a GPU for up to 64 tokens a pass, and float widths that are
multiples of 4; beyond, cuBLAS decides about the last bits).

Some models round as no compiled kernel does: inputs with one scale a token, grids that have no product, caches of few bits.
Plain products compute those. Their bits depend on how many rows there are, and a last bit can tip a number over to its next
code, so such a model takes its tokens one after the other: slowly, and verification again sees the numbers of plain decoding.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeptRows, KeyValueCache
from minimtp.engine.module import Module, weight_bytes
from minimtp.model.transformer import Block, ModelConfig, Transformer

ROWS = 16  # of a prompt that are fed at once on the CPU: as many as a verification has, so that buffers need not be larger


class Step(NamedTuple):
    """What one pass says about each of its T tokens."""

    logits: Array  # (T, V): of the token after each
    hidden: Array  # (T, D): the trunk's state after its final norm, for the drafters


def have_kernels(model: Module, kernel: ModuleType) -> bool:
    """Whether these kernels round weights, inputs, keys and values as the model does."""
    modules = [module for _, module in model.named_modules()]
    matrices = [module for module in modules if hasattr(module, "packed")]
    return not any(hasattr(module, "stored") for module in modules) and all(
        m.has_a_kernel(kernel) for m in matrices
    )


def prepare_product(
    module: Module, kernel: ModuleType, first: int = 0, last: int | None = None
) -> Any:
    """The matrix of a Linear, an Embedding or a packed module, its columns from `first` to before `last`, laid out for
    `kernel.linear`.

    Raises TypeError for a fake-quantized module: convert the model first.
    """
    if hasattr(module, "packed"):
        return module.prepare(kernel, first, last)
    weight = getattr(module, "weight", None)
    if weight is None or hasattr(module, "grid"):
        raise TypeError(
            f"a {type(module).__name__} cannot be decoded with; convert the model first"
        )
    return kernel.prepare_f32(
        array_module(weight.data).ascontiguousarray(weight.data[:, first:last])
    )


def _block_weights(block: Block, kernel: ModuleType) -> tuple:
    """What the kernels' `prepare_block` wants to know of a block, its matrices laid out."""
    attention, feed_forward = block.attention, block.feed_forward
    matrices = attention.qkv, attention.output, feed_forward.gate_up, feed_forward.down
    qkv, output, gate_up, down = (prepare_product(matrix, kernel) for matrix in matrices)
    return (
        block.attention_norm.weight.data,
        qkv,
        output,
        block.feed_forward_norm.weight.data,
        gate_up,
        down,
    )


def _over_its_cache(prepared: Any, block: Block) -> Any:
    """A prepared block whose cache makes of keys and values what the block's attention says."""
    stored = getattr(block.attention, "stored", None)
    return prepared if stored is None else replace(prepared, stored=stored)


class BlockWeights:
    """One block, laid out for the kernels, which compute all of it in one call."""

    def __init__(self, block: Block, config: ModelConfig, kernel: ModuleType) -> None:
        self._kernel = kernel
        prepared = kernel.prepare_block(
            *_block_weights(block, kernel), config.num_heads, config.norm_eps
        )
        self._prepared = _over_its_cache(prepared, block)

    def forward(
        self, x: Array, cache: KeyValueCache, layer: int, cosine: Array, sine: Array
    ) -> None:
        """Put x (T, D) through the block, in place; its keys and values are written behind the cache's rows."""
        keys, values = cache.layer(layer)
        self._kernel.transformer_block(x, self._prepared, keys, values, cache.length, cosine, sine)


def stretches(depths: Sequence[int], start: int) -> np.ndarray:
    """(S, 3) int64: the chains that make up a depth-first walk, each by its first row, the row after its last, and the position
    of its first row in the text, where the root has position `start`."""
    firsts = [row for row, depth in enumerate(depths) if row == 0 or depth != depths[row - 1] + 1]
    return np.array(
        [
            (a, b, start + depths[a])
            for a, b in zip(firsts, [*firsts[1:], len(depths)], strict=True)
        ],
        np.int64,
    )


class ModelRunner:
    """A trunk ready to decode: the `Target` of `decode/generation.py`.

    trunk: a Transformer in full precision or converted to packed modules.
    context_length: how many positions the cache has room for; by default what the model was trained with.
    model: the trunk with its heads, if they are to draft; all of it decodes with the same `kernel`.
    """

    def __init__(
        self, trunk: Transformer, context_length: int | None = None, model: Module | None = None
    ) -> None:
        self.config = config = trunk.config
        self.weight_bytes = weight_bytes(model or trunk)
        self.vocabulary_size = config.vocabulary_size
        self.context_length = context_length or config.context_length
        self.final_norm = trunk.final_norm.weight.data
        kernel = kernels.for_array(self.final_norm)
        self.rows_at_once = have_kernels(
            model or trunk, kernel
        )  # or one after the other, over plain kernels
        self.kernel = kernel = kernel if self.rows_at_once else kernels.plain
        on_the_host = array_module(self.final_norm) is np
        self.max_rows = ROWS if on_the_host else self.context_length
        self.output = prepare_product(
            trunk.embedding if trunk.output is None else trunk.output, kernel
        )
        self._embedding = trunk.embedding
        self.table = self._prepared_embedding(tied=trunk.output is None)
        blocks = [partial(_block_weights, block, kernel) for block in trunk.blocks]
        self._trunk = kernel.prepare_trunk(
            blocks, self.final_norm, self.output, config.num_heads, config.norm_eps
        )
        self._graphs = getattr(self._trunk, "graphs", None)  # of steps, on a GPU with its kernels
        if not self.rows_at_once:
            over_caches = map(_over_its_cache, self._trunk.blocks, trunk.blocks)
            self._trunk = replace(self._trunk, blocks=tuple(over_caches))
        self.cosine, self.sine = trunk.blocks[0].attention.rotary.tables(
            self.context_length, self.final_norm
        )
        self.cache = KeyValueCache(
            config.num_layers, self.context_length, config.num_kv_heads, config.head_dim,
            self.final_norm.dtype, array_module(self.final_norm),
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self.cache.length

    def _prepared_embedding(self, tied: bool) -> Any:
        """The token embeddings laid out for the kernels, where that takes no second copy of floats; else None."""
        if tied:
            return self.output
        packed = hasattr(self._embedding, "packed") and self._embedding.has_product(self.kernel)
        return prepare_product(self._embedding, self.kernel) if packed else None

    def embed(self, tokens: Array) -> Array:
        """The embeddings (T, D) of (T,) integers, a new array. No packed table is ever decoded as a whole."""
        if self.table is not None:
            return self.kernel.embedding(self.table, tokens).astype(
                self.final_norm.dtype, copy=False
            )
        if hasattr(self._embedding, "packed"):
            return self._embedding(tokens).data
        return self._embedding.weight.data[tokens]

    def forward(self, tokens: Array) -> Step:
        """Feed (T,) integers behind the cached positions. Raises ValueError when they do not fit the context."""
        if not self.rows_at_once and len(tokens) > 1:
            return _together([self.forward(tokens[i : i + 1]) for i in range(len(tokens))])
        start, rows = self.cache.length, tokens.shape[0]
        if self._graphs is not None and rows <= self._graphs.most_tokens:
            return self._replayed(tokens, start)
        cosine, sine = (
            self.cosine[start : start + rows],
            self.sine[start : start + rows],
        )  # (T, C/2)
        x = self.embed(array_module(self.final_norm).asarray(tokens))  # (T, D)
        cache = self.cache
        logits, hidden = self.kernel.trunk_step(
            x, self._trunk, cache.keys, cache.values, start, cosine, sine
        )
        cache.extend(rows)
        return Step(logits, hidden)

    def _replayed(self, tokens: np.ndarray, start: int) -> Step:
        """`forward` on a GPU: from the tokens to the logits one graph, recorded once for each number of tokens, then replayed.
        All that changes from step to step, the tokens and the position, is one upload."""
        xp, cache, rows = array_module(self.final_norm), self.cache, len(tokens)
        if rows > cache.context_length - start:
            raise ValueError(
                f"{rows} rows after {start} do not fit a cache of {cache.context_length}"
            )

        def step(given: Array) -> tuple[Array, Array]:
            x, positions = self.embed(given[:rows]), given[rows:] + xp.arange(rows)
            return self.kernel.trunk_step(
                x, self._trunk, cache.keys, cache.values, given[rows:].astype(xp.int32), self.cosine[positions],
                self.sine[positions],
            )  # fmt: skip

        given = np.empty(rows + 1, np.int64)
        given[:rows], given[rows] = tokens, start
        logits, hidden = self._graphs.run(
            (rows, cache.keys.data.ptr, cache.values.data.ptr), step, xp.asarray(given)
        )
        cache.extend(rows)
        return Step(logits, hidden)

    def clone(self) -> "ModelRunner":
        """Another one with these weights and an empty cache of its own."""
        other = copy(self)
        other.cache = self.cache.clone()
        return other

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> Step:
        """Feed the rows of a tree, T tokens and their depths in depth-first order. The cache is as before until `keep`.

        Row r's bits are those of a chain that ends with it. Raises ValueError when they do not fit the context.
        """
        xp, cache, start = array_module(self.final_norm), self.cache, self.cache.length
        last = start + max(depths)
        if last >= self.context_length:
            raise ValueError(
                f"a tree that reaches position {last} does not fit a context of {self.context_length}"
            )
        positions = start + xp.asarray(depths)  # (T,)
        x = self.embed(xp.asarray(tokens))  # (T, D)
        self._kept = kept = KeptRows(cache, len(x))

        def walk(rows: slice) -> Step:
            logits, hidden = self.kernel.trunk_step(
                x[rows], self._trunk, cache.keys, cache.values, start, self.cosine[positions[rows]], self.sine[positions[rows]],
                (stretches(depths[rows], start), kept.keys[:, rows], kept.values[:, rows]),
            )  # fmt: skip
            return Step(logits, hidden)

        if self.rows_at_once:
            return walk(slice(None))
        return _together([walk(slice(row, row + 1)) for row in range(len(x))])

    def keep(self, rows: Sequence[int]) -> None:
        """Add these rows of the tree that was fed last, a path that begins at its root, to the cache."""
        self._kept.append(array_module(self.final_norm).asarray(rows))

    def truncate(self, length: int) -> None:
        """Forget the positions at and beyond `length`."""
        self.cache.truncate(length)


def _together(steps: Sequence[Step]) -> Step:
    """Steps of a token each, as one."""
    concatenate = array_module(steps[0].logits).concatenate
    return Step(*(concatenate(parts) for parts in zip(*steps, strict=True)))
