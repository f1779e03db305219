"""One pass of a model over the pending tokens of several texts, each with its own cache."""

from collections.abc import Sequence
from typing import NamedTuple

from minimtp.backend import Array, array_module
from minimtp.backend import numpy as np
from minimtp.decode.cache import make_cache
from minimtp.decode.model_runner import ModelRunner


class Pending(NamedTuple):
    """New tokens of a text, and where they stand: the place of the text, and the position of the
    first.
    """

    tokens: Sequence[int]
    place: int
    start: int


class BatchedRunner:
    """A model with the caches of several texts.

    runner: the prepared weights, which several of these may share. places: the number of texts.
    room: positions of the longest.
    """

    def __init__(self, runner: ModelRunner, places: int, room: int) -> None:
        config, dtype = runner.config, str(runner.cache.keys.dtype)
        self.runner, self.places = runner, places
        self.xp = xp = array_module(runner.final_norm)
        heads, head_dim, layers = config.num_kv_heads, config.head_dim, config.num_layers
        # One cache with the layers of all texts. Memory is taken when it is written.
        cache = make_cache(places * layers, room, heads, head_dim, dtype, xp)

        def of_texts(array: Array) -> Array:
            return array.reshape(places, layers, *array.shape[1:])

        self.keys, self.values = of_texts(cache.keys), of_texts(cache.values)
        self.steps = None if cache.steps is None else of_texts(cache.steps)
        self._cosine, self._sine = runner.rotary.tables(room, runner.final_norm)  # (S, C/2)

    def forward(self, pending: Sequence[Pending]) -> Array:
        """Process the pending tokens of some texts -> the logits (M, V) after each of them."""
        if self.runner.rows_at_once:
            return self._forward(pending)
        # One token at a time (model_runner.py).
        logits = []
        for tokens, place, start in pending:
            for step in range(len(tokens)):
                last = self._forward([Pending(tokens[step : step + 1], place, start + step)])
            logits.append(last)
        return self.xp.concatenate(logits)

    def _forward(self, pending: Sequence[Pending]) -> Array:
        xp, runner = self.xp, self.runner
        counts = np.array([len(part.tokens) for part in pending])
        stops = counts.cumsum()
        stretches = np.empty((len(pending), 4), np.int64)
        stretches[:, 0], stretches[:, 1] = stops - counts, stops
        stretches[:, 2] = [part.place for part in pending]
        stretches[:, 3] = [part.start for part in pending]
        tokens = xp.asarray([token for part in pending for token in part.tokens])
        positions = xp.asarray(
            np.arange(stops[-1]) + np.repeat(stretches[:, 3] - stretches[:, 0], counts)
        )
        logits, _ = runner.forward_batch(
            tokens,
            self.keys,
            self.values,
            stretches,
            self._cosine[positions],
            self._sine[positions],
            self.steps,
        )
        return logits
