"""The key/value cache: what attention has already computed for the tokens that are committed.

A token's keys and values depend only on it and on the tokens before it, so decoding computes them once and keeps them.
The memory is allocated once, for the whole context: appending writes into it, reading hands out views, and forgetting
is setting a length. That makes rolling back a rejected draft free:

    invariant: m committed tokens  <=>  m - 1 rows, the rows of tokens 0 .. m-2

The last committed token is *pending*: it was chosen, but has not been fed to the model. A verification step feeds it
and K drafts, which appends K + 1 rows; when a of the drafts are accepted, a + 1 tokens are newly committed, so a + 1 of
the new rows stay: `truncate(m + a)`. Keys are stored after their rotation to an absolute position, so no row ever has
to be rotated again.

`write` says where rows go. A decoder does not call it: its kernels (`transformer_block`) are given the views of `layer` and put
a pass's rows there themselves, in the same call that attends to them, and `extend` counts them.

A tree of drafts has several rows for one position, so its rows are kept apart (`KeptRows`) until a path is chosen, whose rows
are then appended.

Layout: for each layer keys (heads, channels, context) and values (context, heads, channels). A query's product with the keys
is a row for each position, the sum of the values a row for each channel: what ends up side by side in a result lies side by
side in the cache, so that both are products as fast as those with weights.
"""

import math
from types import ModuleType

from minimtp.backend import array_module, numpy

CACHE_LINE = 64  # bytes


class KeyValueCache:
    """Keys and values of `layers` attention layers for up to `context` positions.

    keys: (layers, heads, channels, context), values: (layers, context, heads, channels), arrays of `dtype`; positions at and
    beyond `length` are meaningless.
    `heads` counts key/value heads (fewer than query heads under grouped-query attention).
    """

    def __init__(
        self,
        layers: int,
        context_length: int,
        heads: int,
        head_dim: int,
        dtype: object = "float32",
        xp: ModuleType = numpy,
    ) -> None:
        # Zeros rather than empty: a kernel may touch rows beyond the length (and mask them), and NaN * 0 is NaN.
        self.keys = _aligned_zeros((layers, heads, head_dim, context_length), dtype, xp)
        self.values = _aligned_zeros((layers, context_length, heads, head_dim), dtype, xp)
        self.context_length = context_length
        self.length = 0
        # Slicing costs as much as a small kernel, so each layer's view is made once.
        self._layers = [(self.keys[layer], self.values[layer]) for layer in range(layers)]

    def clone(self) -> "KeyValueCache":
        """An empty cache of the same sizes."""
        layers, _, heads, head_dim = self.values.shape
        return KeyValueCache(
            layers,
            self.context_length,
            heads,
            head_dim,
            self.values.dtype,
            array_module(self.values),
        )

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes that the cache occupies, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def layer(self, layer: int) -> tuple[object, object]:
        """Views of the whole of one layer's keys (G, C, S) and values (S, G, C); positions up to `length` are committed."""
        return self._layers[layer]

    def write(self, layer: int, keys: object, values: object) -> tuple[object, object]:
        """Store (T, G, C) keys and values behind the committed rows and return the layer's whole views.

        Does not move `length`: every layer of one forward pass writes at the same place, then `extend(T)` counts the
        rows.
        Raises ValueError where the rows do not fit.
        """
        start, stop = self.length, self.length + keys.shape[0]
        if stop > self.context_length:
            raise ValueError(f"{stop} positions do not fit a cache of {self.context_length}")
        all_keys, all_values = views = self._layers[layer]
        all_keys[:, :, start:stop] = keys.transpose(1, 2, 0)
        all_values[start:stop] = values
        return views

    def extend(self, rows: int) -> None:
        """Count `rows` rows, written to every layer, as part of the cache."""
        if not 0 <= rows <= self.context_length - self.length:
            raise ValueError(
                f"{rows} more rows do not fit: {self.length} of {self.context_length} are in use"
            )
        self.length += rows

    def truncate(self, length: int) -> None:
        """Forget the rows at and beyond `length`. Raises ValueError where there are fewer than that."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} rows to {length}")
        self.length = length


class KeptRows:
    """Keys and values (layers, T, heads, channels) of T rows that are not in the cache until it is known which belong there."""

    def __init__(self, cache: KeyValueCache, rows: int) -> None:
        layers, _, heads, head_dim = cache.values.shape
        xp = array_module(cache.values)
        self.keys, self.values = (
            xp.empty((layers, rows, heads, head_dim), cache.values.dtype) for _ in range(2)
        )
        self._cache = cache

    def append(self, rows: object) -> None:
        """Put these rows, integers (R,), behind those of the cache. Raises ValueError where they do not fit."""
        cache, start = self._cache, self._cache.length
        cache.extend(len(rows))
        cache.keys[..., start : cache.length] = self.keys[:, rows].transpose(0, 2, 3, 1)
        cache.values[:, start : cache.length] = self.values[:, rows]


def _aligned_zeros(shape: tuple[int, ...], dtype: object, xp: ModuleType) -> object:
    """Zeros that begin at a cache line, which NumPy does not promise: attention takes about 15 % less time over them."""
    if xp is not numpy:
        return xp.zeros(shape, dtype)
    size = math.prod(shape) * numpy.dtype(dtype).itemsize
    room = numpy.zeros(size + CACHE_LINE, numpy.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + size].view(dtype).reshape(shape)
