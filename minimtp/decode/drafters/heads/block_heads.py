"""The common part of drafting with parallel and with sequential heads: one transformer block with a
KV cache per head.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from types import ModuleType

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import KeyValueCache, enlarged, make_cache, room_for, with_rows
from minimtp.decode.drafters.drafter import is_prompt
from minimtp.decode.model_runner import ModelRunner, prepare_weights, stores_int8, with_cache_of
from minimtp.model.config import ModelConfig
from minimtp.model.heads import ParallelHead, ParallelHeads, SequentialHead, SequentialHeads
from minimtp.model.transformer import Block


class BlockRunner:
    """One transformer block, laid out for the kernels, which compute it in one call."""

    def __init__(self, block: Block, config: ModelConfig, kernel: ModuleType) -> None:
        self._kernel = kernel
        prepared = kernel.prepare_block(
            prepare_weights(block, kernel), config.num_heads, config.norm_eps
        )
        self._prepared = with_cache_of(prepared, block)

    def forward(
        self, x: Array, cache: KeyValueCache, layer: int, cosine: Array, sine: Array
    ) -> None:
        """Apply the block to x (T, D), in place, and write its keys and values after the cached
        rows of `layer`.
        """
        keys, values = cache.layer(layer)
        steps = None if cache.steps is None else cache.steps[layer]
        self._kernel.transformer_block(
            x, self._prepared, keys, values, cache.length, cosine, sine, steps=steps
        )


class BlockHead:
    """One head: the weights of its block, its KV cache, and the states of its rows."""

    def __init__(self, head: ParallelHead | SequentialHead, runner: ModelRunner) -> None:
        xp, dtype = array_module(runner.final_norm), runner.final_norm.dtype
        self._runner = runner
        self._config = config = runner.config
        self._kernel = runner.kernel
        self._block = BlockRunner(head.block, config, self._kernel)
        self._norm = head.norm.weight.data
        room = room_for(1, runner.context_length, xp)
        cache_type = "int8" if stores_int8(head.block, xp) else dtype
        self.cache = make_cache(1, room, config.num_kv_heads, config.head_dim, cache_type, xp)
        self.states = xp.empty((room, config.hidden_size), dtype)
        self._angles = runner.rotary.tables(room, self._norm)  # cosine and sine, (room, C/2) each

    def clone(self) -> "BlockHead":
        """Return a head with the same weights and its own empty cache.

        This one may grow meanwhile, in another thread. So only the copy is read, and `extend`
        replaces the cache last.
        """
        other = copy(self)
        other.cache = other.cache.clone()
        room = other.cache.context_length
        other.states = array_module(other.states).empty_like(other.states[:room])
        return other

    def extend(self, x: Array) -> None:
        """Run the block on R inputs (R, D), the rows after the cached ones, and store their states.
        Overwrites x.
        """
        start, stop = self.cache.length, self.cache.length + len(x)
        if stop > self.cache.context_length:
            room = room_for(stop, self._runner.context_length, array_module(x))
            self._angles = self._runner.rotary.tables(room, self._norm)
            self.states = with_rows(self.states, room)
            self.cache = enlarged(self.cache, room)
        cosine, sine = (table[start:stop] for table in self._angles)
        self._block.forward(x, self.cache, 0, cosine, sine)
        self.cache.extend(len(x))
        self.states[start:stop], _ = self._kernel.rms_norm(x, self._norm, self._config.norm_eps)


class BlockHeadDrafter(ABC):
    """Stores committed tokens and hidden states, and runs the heads when a draft is requested.

    The heads then catch up on all rows that they have not seen. After a long prompt they catch up
    immediately, so that this time is not counted as drafting.
    """

    head_type: type[BlockHead] = BlockHead
    reads_hidden = True
    stops_early = False
    min_confidence = 0.0

    def __init__(self, heads: ParallelHeads | SequentialHeads, runner: ModelRunner) -> None:
        self.max_depth = heads.depth
        self._xp = xp = array_module(runner.final_norm)
        self._kernel = runner.kernel
        self._output = runner.output
        self._heads = [self.head_type(head, runner) for head in heads.steps]
        self._context_length = runner.context_length
        self._max_rows = runner.max_rows  # of a pass; more would need large buffers
        room = room_for(1, runner.context_length, xp)
        self._hidden = xp.empty((room, runner.config.hidden_size), runner.final_norm.dtype)
        self._tokens = xp.zeros(room + self.max_depth + 1, np.int64)
        self._rows = 0  # committed rows; with the pending token there is one more token than rows

    def clone(self) -> "BlockHeadDrafter":
        other = copy(self)  # what is read below; this drafter may grow meanwhile
        other._heads = [head.clone() for head in other._heads]
        other._hidden = self._xp.empty_like(other._hidden)
        other._tokens = self._xp.zeros_like(other._tokens)
        return other

    def reset(self, first_token: int) -> None:
        self._rows = 0
        self._tokens[0] = first_token
        for head in self._heads:
            head.cache.truncate(0)

    def commit(self, hidden: Array, tokens: np.ndarray) -> None:
        start, self._rows = self._rows, self._rows + len(tokens)
        if self._rows > len(self._hidden):
            room = room_for(self._rows, self._context_length, self._xp)
            self._tokens = with_rows(self._tokens, room + self.max_depth + 1)
            self._hidden = with_rows(self._hidden, room)  # the last: its length decides
        self._hidden[start : self._rows] = hidden
        self._tokens[start + 1 : self._rows + 1] = self._xp.asarray(tokens)
        if is_prompt(tokens, self.max_depth):
            self._catch_up()

    def _passes(self, start: int, stop: int) -> Iterator[slice]:
        """Split the rows from `start` to before `stop` into passes of heads."""
        for first in range(start, stop, self._max_rows):
            yield slice(first, min(first + self._max_rows, stop))

    @abstractmethod
    def _catch_up(self) -> None:
        """Run every head over the committed rows that it has not seen."""
