"""The trunk in the form that decoding needs: raw arrays, a KV cache, and a few tokens at a time.

Training sees whole sequences and records a graph. Decoding sees one to sixteen new tokens, and
every Python call takes longer than its arithmetic. So the same function is written here once more
without tensors, over `minimtp.kernels`: the weights are laid out once for the kernels (as floats,
or as blocks of 4 or 8 bits), and a forward pass is one call. Tests require it to match the training
model.

Verifying K drafts is one `forward` of K + 1 tokens. With the compiled kernels, the bits of a row do
not depend on the number of rows, so verification and plain decoding agree exactly. (On a GPU this
holds for up to 64 tokens per pass and for float matrices whose sizes are multiples of 4. Otherwise
the last bits depend on cuBLAS.)

Some models round in a way that no compiled kernel implements: inputs with one scale per token,
grids without kernels, int4 KV caches, int8 KV caches without Numba. Plain matmuls compute those.
Their bits depend on the number of rows, and the last bit can move a number to the next code. So
such a model processes its tokens one by one. That is slow, but verification then computes the same
numbers as plain decoding.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import TreeRows, bytes_for, empty_like, enlarged, make_cache, room_for
from minimtp.decode.target import ForwardOutput
from minimtp.engine.module import Module
from minimtp.errors import UserError
from minimtp.kernels.plain.decoding.block import BlockWeights, TreeArrays, stretches
from minimtp.kernels.plain.packed_linear import PreparedMatrix
from minimtp.model.matrix import Matrix, weight_bytes
from minimtp.model.transformer import Attention, Block, LanguageModel, Transformer

# Tokens of a prompt per forward pass. On the CPU no more than in a verification, so that buffers
# stay small. On a GPU, attention over T tokens takes T² numbers per head.
MAX_ROWS = 16
MAX_ROWS_ON_GPU = 1024


class ModelRunner:
    """A trunk ready to decode: its weights laid out for the kernels, and a KV cache. Implements
    `Target`.

    model: in full precision or with packed modules. If it has heads, they decode with the same
    `kernel` as its trunk.
    context_length: the longest text, in positions; by default the context length of the model's
    configuration. The cache and the tables of RoPE grow with the text, so a long context takes no
    memory until a text is long.
    kv_cache: number format of the cache, "float16" or "int8", or None for that of the model's
    numbers. On the CPU, a model that was trained with an int8 cache always has one.
    layers: F trunk layers whose inputs a drafter reads; None means those of the model's heads.
    `hidden` has W = (1 + F) D columns: the final state and these.
    Raises UserError for a format on a GPU, and TypeError for a fake-quantized model, which
    must be converted first.
    """

    def __init__(
        self,
        model: LanguageModel,
        context_length: int | None = None,
        kv_cache: str | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        trunk = model.trunk
        self.config = config = trunk.config
        self.weight_bytes = weight_bytes(model)
        self.vocabulary_size = config.vocabulary_size
        self.context_length = context_length or config.context_length
        self.final_norm = trunk.final_norm.weight.data  # (D,)
        self._xp = xp = array_module(self.final_norm)
        kernel = kernels.for_array(self.final_norm)
        if stores_int8(trunk.blocks[0], xp):
            kv_cache = "int8"
        # Without exact kernels the plain ones decode, one row at a time. Plain kernels with an int8
        # cache do so, too: a difference in the last bit of a key could change its code.
        self.rows_at_once = are_exact(kernel, model)
        self.rows_at_once &= kv_cache != "int8" or kernel.INT8_CACHE
        self.kernel = kernel = kernel if self.rows_at_once else kernels.plain
        if kv_cache is not None and xp is not np:
            raise UserError(f"a KV cache of {kv_cache} is only for the CPU: leave it out on a GPU")
        self.max_rows = MAX_ROWS if xp is np else min(MAX_ROWS_ON_GPU, self.context_length)
        self.output_matrix = trunk.output_matrix
        self.output = self.output_matrix.prepare(kernel)
        self._embedding = trunk.embedding
        self.table = self._prepare_table(tied=trunk.output is None)
        self.layers = tuple(model.layers if layers is None else layers)
        self._trunk = self._prepare_trunk(trunk)
        self._graphs = self._trunk.graphs  # recorded passes on a GPU with its kernels, else None
        self.rotary = trunk.blocks[0].attention.rotary
        room = room_for(1, self.context_length, xp)
        self.cosine, self.sine = self.rotary.tables(room, self.final_norm)  # (S, C/2)
        self.cache = make_cache(
            config.num_layers, room, config.num_kv_heads, config.head_dim,
            kv_cache or self.final_norm.dtype, xp,
        )  # fmt: skip
        self._tree_rows: TreeRows | None = None  # of the tree that was fed last
        self.threads = 1

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self.cache.length

    def use_threads(self, count: int) -> None:
        """Let this many threads compute each pass, if the kernels can do that. `threads` says how
        many do.
        """
        self._trunk = self.kernel.with_threads(self._trunk, count)
        self.threads = self._trunk.team.size if self._trunk.team else 1

    def forward(self, tokens: Array) -> ForwardOutput:
        """Process (T,) integers after the cached positions. Raises ValueError if they do not fit
        the context.
        """
        rows, start = len(tokens), self.cache.length
        stop = start + rows
        if rows > 1 and not self.rows_at_once:
            return _concatenate(self.forward(tokens[i : i + 1]) for i in range(rows))
        self.make_room(stop)
        if self._graphs is not None and rows <= self._graphs.max_tokens:
            return self._replay(tokens)
        cache, x = self.cache, self.embed(self._xp.asarray(tokens))  # (T, D)
        logits, hidden = self.kernel.trunk_step(
            x, self._trunk, cache.keys, cache.values, start, self.cosine[start:stop],
            self.sine[start:stop], steps=cache.steps,
        )  # fmt: skip
        cache.extend(rows)
        return ForwardOutput(logits, hidden)

    def forward_batch(
        self,
        tokens: Array,
        keys: Array,
        values: Array,
        stretches: np.ndarray,
        cosine: Array,
        sine: Array,
        steps: Array | None,
    ) -> ForwardOutput:
        """Process tokens (T,) of several texts with caches of their own, not this runner's. The
        arguments and the results are those of `batched_trunk_step`.
        """
        x = self.embed(tokens)  # (T, D)
        return ForwardOutput(
            *self.kernel.batched_trunk_step(
                x, self._trunk, keys, values, stretches, cosine, sine, steps
            )
        )

    def forward_tree(self, tokens: Sequence[int], depths: Sequence[int]) -> ForwardOutput:
        """Process a draft tree, T tokens and their depths in depth-first order. The cache does not
        change until `keep`.

        A row has the same bits as in the chain from the root to it. Raises ValueError if the tree
        does not fit the context.
        """
        xp, start = self._xp, self.length
        last = start + max(depths)
        if last >= self.context_length:
            raise ValueError(
                f"a tree that reaches position {last} does not fit a context of "
                f"{self.context_length}"
            )
        self.make_room(last + 1)
        cache = self.cache
        positions = start + xp.asarray(depths)  # (T,)
        x = self.embed(xp.asarray(tokens))  # (T, D)
        self._tree_rows = tree_rows = TreeRows(cache, len(x))

        def step(rows: slice) -> ForwardOutput:
            tree = TreeArrays(
                stretches(depths[rows], start),
                tree_rows.keys[:, rows],
                tree_rows.values[:, rows],
                None if tree_rows.steps is None else tree_rows.steps[:, rows],
            )
            logits, hidden = self.kernel.trunk_step(
                x[rows], self._trunk, cache.keys, cache.values, start, self.cosine[positions[rows]],
                self.sine[positions[rows]], tree, cache.steps,
            )  # fmt: skip
            return ForwardOutput(logits, hidden)

        if self.rows_at_once:
            return step(slice(None))
        return _concatenate(step(slice(row, row + 1)) for row in range(len(x)))

    def keep(self, rows: Sequence[int]) -> None:
        """Append these rows of the last tree, a path from its root, to the cache."""
        self._tree_rows.append_to_cache(self._xp.asarray(rows))

    def truncate(self, length: int) -> None:
        """Drop the cached positions from `length` on."""
        self.cache.truncate(length)

    def make_room(self, positions: int) -> None:
        """Enlarge the cache and the tables of RoPE, if this many positions do not fit. Raises
        ValueError if they do not fit the context.
        """
        if positions <= self.cache.context_length:
            return
        if positions > self.context_length:
            raise ValueError(f"{positions} rows do not fit a context of {self.context_length}")
        room = room_for(positions, self.context_length, self._xp)
        self.cosine, self.sine = self.rotary.tables(room, self.final_norm)
        self.cache = enlarged(self.cache, room)

    def cache_bytes(self, positions: int) -> int:
        """Return the bytes of the cache that a text of this many positions needs."""
        room = room_for(positions, self.context_length, self._xp)
        return bytes_for(self.cache, room)

    def clone(self, kv_cache: str | None = None) -> "ModelRunner":
        """Return a runner with the same weights and its own empty cache, of the same numbers or
        those of `kv_cache`.

        Raises ValueError if other numbers need other kernels.
        """
        if kv_cache not in (None, str(self.cache.values.dtype)) and not (
            self.rows_at_once and self.kernel.INT8_CACHE and self.cache.steps is None
        ):
            raise ValueError(f"this runner cannot have a cache of {kv_cache}")
        other = copy(self)
        # The cache of `other`: this runner may replace its own meanwhile, in another thread.
        other.cache = empty_like(other.cache, other.cache.context_length, kv_cache)
        return other

    def prepared(self, matrix: Matrix) -> PreparedMatrix:
        """Lay out an output of drafts for the kernels. That of the trunk is laid out already."""
        return self.output if matrix is self.output_matrix else matrix.prepare(self.kernel)

    def embed(self, tokens: Array) -> Array:
        """tokens (T,) integers -> their embeddings (T, D), a new array. A packed table is never
        decoded as a whole.
        """
        if self.table is None:
            return self._embedding.rows(tokens)
        rows = self.kernel.embedding(self.table, tokens)
        return rows.astype(self.final_norm.dtype, copy=False)

    def _prepare_table(self, tied: bool) -> PreparedMatrix | None:
        """Lay out the token table for the kernels, unless that would be a second copy as floats;
        then None.
        """
        if tied:
            return self.output
        if self._embedding.stays_packed_on(self.kernel):
            return self._embedding.prepare(self.kernel)
        return None

    def _prepare_trunk(self, trunk: Transformer) -> Any:
        """Lay out all blocks for `kernel.trunk_step`."""
        kernel, config = self.kernel, self.config
        blocks = [partial(prepare_weights, block, kernel) for block in trunk.blocks]
        prepared = kernel.prepare_trunk(
            blocks, self.final_norm, self.output, config.num_heads, config.norm_eps, self.layers
        )
        if self.rows_at_once:
            return prepared
        with_caches = map(with_cache_of, prepared.blocks, trunk.blocks)
        return replace(prepared, blocks=tuple(with_caches))

    def _replay(self, tokens: np.ndarray) -> ForwardOutput:
        """`forward` on a GPU as one graph, from the tokens to the logits, recorded once per number
        of tokens, then replayed.

        Only the tokens and the position change from pass to pass. They are uploaded together.
        """
        xp, cache, start, rows = self._xp, self.cache, self.length, len(tokens)

        def step(given: Array) -> tuple[Array, Array]:
            x, first = self.embed(given[:rows]), given[rows:]
            positions = first + xp.arange(rows)
            return self.kernel.trunk_step(
                x, self._trunk, cache.keys, cache.values, first.astype(xp.int32),
                self.cosine[positions], self.sine[positions],
            )  # fmt: skip

        given = np.empty(rows + 1, np.int64)  # the tokens, then the position of the first
        given[:rows], given[rows] = tokens, start
        # A recorded pass reads these arrays where they were.
        arrays = cache.keys, cache.values, self.cosine, self.sine
        key = rows, *(array.data.ptr for array in arrays)
        logits, hidden = self._graphs.run(key, step, xp.asarray(given))
        cache.extend(rows)
        return ForwardOutput(logits, hidden)


def stores_int8(block: Block, xp: ModuleType) -> bool:
    """Return whether the block decodes with int8 codes in its cache. On a GPU, there are rounded
    floats instead.
    """
    return block.attention.cache == "int8" and xp is np


def are_exact(kernel: ModuleType, model: Module) -> bool:
    """Return whether the kernels round weights, inputs, keys and values as the model does."""
    for _, module in model.named_modules():
        if isinstance(module, Attention) and module.cache != "float":
            if module.cache != "int8" or not kernel.INT8_CACHE:
                return False
        if isinstance(module, Matrix) and not module.is_exact_on(kernel):
            return False
    return True


def prepare_weights(block: Block, kernel: ModuleType) -> BlockWeights:
    """Return the weights of a block, with its matrices laid out for the kernel."""
    attention, feed_forward = block.attention, block.feed_forward
    norms = attention.query_norm, attention.key_norm
    return BlockWeights(
        block.attention_norm.weight.data,
        attention.qkv.prepare(kernel),
        attention.output.prepare(kernel),
        block.feed_forward_norm.weight.data,
        feed_forward.gate_up.prepare(kernel),
        feed_forward.down.prepare(kernel),
        None if attention.qkv_bias is None else attention.qkv_bias.data,
        *(None if norm is None else norm.weight.data for norm in norms),
    )


def with_cache_of(prepared: Any, block: Block) -> Any:
    """Let a prepared block round its keys and values as the block's attention does, unless an int8
    cache does that.
    """
    quantize_kv, xp = block.attention.quantize_kv, array_module(block.attention_norm.weight.data)
    if quantize_kv is None or stores_int8(block, xp):
        return prepared
    return replace(prepared, quantize_kv=quantize_kv)


def _concatenate(outputs: Iterable[ForwardOutput]) -> ForwardOutput:
    """Join the outputs of several passes."""
    outputs = list(outputs)
    concatenate = array_module(outputs[0].logits).concatenate
    return ForwardOutput(*(concatenate(parts) for parts in zip(*outputs, strict=True)))
