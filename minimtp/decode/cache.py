"""The KV cache: the keys and values that attention has computed for the committed tokens.

A token's keys and values depend only on it and on the tokens before it, so decoding computes them
once and stores them. Appending writes into memory that is already allocated, and reading returns
views. Dropping tokens only lowers the length, so rolling back a rejected draft takes no time:

    invariant: m committed tokens  <=>  m - 1 rows, those of tokens 0 .. m-2

The last committed token is *pending*: it was chosen, but the model has not processed it yet. A
verification pass feeds it and K drafts, which appends K + 1 rows. If a of the drafts are accepted,
a + 1 tokens are newly committed, so a + 1 of the new rows stay: `truncate(m + a)`. Keys are stored
after their rotation to an absolute position, so no row is ever rotated again.

`write` defines where rows go. The kernels of a trunk (`transformer_block`) do not need it: they get
the views of `layer`, write the rows of a pass and attend to them in the same call. Then `extend`
counts the rows.

A model with a context of 100,000 tokens would need gigabytes for a text of twenty. So a decoder
begins with a small cache and replaces it by a larger one (`enlarged`) when a text needs it. Room
doubles, so a text of n tokens copies fewer than 2n rows.

A draft tree has several rows for one position, so its rows are stored separately (`TreeRows`) until
a path is accepted. The rows of that path are then appended.

The numbers have the type of the model's, or are rounded to float16 or int8. A long text then takes
half or about a quarter of the memory, and plain decoding, which reads all of it for every token,
less time.

Layout: for each layer, keys (G, N, C, P) and values (S, G, C), with G key/value heads, C numbers
per head, S positions, and N panels of P = 32 positions. The dot products of a query with the keys
give one number per position, and the weighted sum of the values one number per channel. Numbers
that are adjacent in the result are adjacent in the cache, so both run as fast as a matmul with
weights. Without panels, the C numbers of a key would lie S numbers apart, which a processor reads
slowly: an S that is a power of two puts all of them into the same few places of its caches.
"""

from types import ModuleType

from minimtp.backend import Array, aligned_zeros, array_module, numpy
from minimtp.kernels.plain.cache import KEY_PANEL, as_stored, key_panels

FIRST_ROOM = 256  # positions of a decoder's first cache
FIRST_ROOM_ON_GPU = 2048  # recorded passes refer to the cache, so replacing it takes longer


class KeyValueCache:
    """Keys and values of `layers` attention layers for up to `context_length` positions.

    keys: (L, G, N, C, P), values: (L, S, G, C), arrays of `dtype`. Position s is place s % P of
    panel s // P. Positions from `length` on are meaningless.
    heads: G, the number of key/value heads (fewer than query heads in grouped-query attention).
    """

    steps: Array | None = None  # only of int8 caches

    def __init__(
        self,
        layers: int,
        context_length: int,
        heads: int,
        head_dim: int,
        dtype: str = "float32",
        xp: ModuleType = numpy,
    ) -> None:
        # Zeros, not empty: a kernel may read rows beyond the length and mask them, and NaN * 0 is
        # NaN.
        panels = key_panels(context_length)
        self.keys = aligned_zeros((layers, heads, panels, head_dim, KEY_PANEL), dtype, xp)
        self.values = aligned_zeros((layers, context_length, heads, head_dim), dtype, xp)
        self.context_length = context_length
        self.length = 0
        # Slicing takes as long as a small kernel, so each layer's view is made once.
        self._layers = [(self.keys[layer], self.values[layer]) for layer in range(layers)]

    def clone(self) -> "KeyValueCache":
        """Return an empty cache of the same size."""
        layers, _, heads, head_dim = self.values.shape
        xp, dtype = array_module(self.values), self.values.dtype
        return KeyValueCache(layers, self.context_length, heads, head_dim, dtype, xp)

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Bytes that the cache occupies, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def layer(self, layer: int) -> tuple[Array, Array]:
        """Return views of all keys (G, N, C, P) and values (S, G, C) of one layer. Only positions
        before `length` hold rows.
        """
        return self._layers[layer]

    def write(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """Write (T, G, C) keys and values after the `length` rows. Return the views of `layer`.

        This does not change `length`. Every layer of a forward pass writes at the same positions.
        Then `extend(T)` counts the rows.
        Raises ValueError if the rows do not fit.
        """
        start, stop = self.length, self.length + keys.shape[0]
        if stop > self.context_length:
            raise ValueError(f"{stop} positions do not fit a cache of {self.context_length}")
        all_keys, all_values = views = self._layers[layer]
        positions = array_module(keys).arange(start, stop)
        all_keys[:, positions // KEY_PANEL, :, positions % KEY_PANEL] = keys
        all_values[start:stop] = values
        return views

    def extend(self, rows: int) -> None:
        """Count `rows` rows, which every layer has written, as part of the cache. Raises ValueError
        if they do not fit.
        """
        if not 0 <= rows <= self.context_length - self.length:
            raise ValueError(
                f"{rows} more rows do not fit: {self.length} of {self.context_length} are in use"
            )
        self.length += rows

    def truncate(self, length: int) -> None:
        """Drop the rows from `length` on. Raises ValueError if there are fewer rows than that."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} rows to {length}")
        self.length = length


class Int8KeyValueCache(KeyValueCache):
    """A cache of int8 codes, with a step for each key and each value of a head.

    steps: float32 (L, 2, G, N P), of the keys and of the values. The numbers are codes times steps
    (kernels/plain/cache.py).
    """

    def __init__(
        self, layers: int, context_length: int, heads: int, head_dim: int, xp: ModuleType = numpy
    ) -> None:
        super().__init__(layers, context_length, heads, head_dim, "int8", xp)
        positions = key_panels(context_length) * KEY_PANEL
        self.steps = aligned_zeros((layers, 2, heads, positions), "float32", xp)

    def clone(self) -> "Int8KeyValueCache":
        return empty_like(self, self.context_length)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.steps.nbytes

    def write(self, layer: int, keys: Array, values: Array) -> tuple[Array, Array]:
        """As in `KeyValueCache`, for keys and values as numbers. Returns views of the codes."""
        (keys, key_steps), (values, value_steps) = (as_stored(x, "int8") for x in (keys, values))
        views, at = super().write(layer, keys, values), slice(self.length, self.length + len(keys))
        self.steps[layer, 0, :, at], self.steps[layer, 1, :, at] = key_steps.T, value_steps.T
        return views


def make_cache(
    layers: int,
    room: int,
    heads: int,
    head_dim: int,
    dtype: str = "float32",
    xp: ModuleType = numpy,
) -> KeyValueCache:
    """Return an empty cache whose numbers have this type, one of the model's, float16 or int8."""
    if dtype == "int8":
        return Int8KeyValueCache(layers, room, heads, head_dim, xp)
    return KeyValueCache(layers, room, heads, head_dim, dtype, xp)


def empty_like(cache: KeyValueCache, room: int, dtype: str | None = None) -> KeyValueCache:
    """Return an empty cache for the same model with this room. dtype: None for that of `cache`."""
    layers, _, heads, head_dim = cache.values.shape
    dtype = dtype or str(cache.values.dtype)
    return make_cache(layers, room, heads, head_dim, dtype, array_module(cache.values))


def room_for(positions: int, context_length: int, xp: ModuleType = numpy) -> int:
    """Return the number of positions of the cache for a text of `positions` rows: a power of two,
    or the whole context.
    """
    first = FIRST_ROOM if xp is numpy else FIRST_ROOM_ON_GPU
    return min(context_length, max(first, 1 << (positions - 1).bit_length()))


def bytes_for(cache: KeyValueCache, room: int) -> int:
    """Return the bytes of a cache like this one with room for this many positions."""
    layers, _, heads, head_dim = cache.values.shape
    positions = key_panels(room) * KEY_PANEL
    steps = 0 if cache.steps is None else 2 * positions * cache.steps.itemsize
    return layers * heads * (head_dim * (positions + room) * cache.values.itemsize + steps)


def enlarged(cache: KeyValueCache, room: int) -> KeyValueCache:
    """Return a cache of `room` positions with the rows of `cache`."""
    larger, length = empty_like(cache, room), cache.length
    panels = key_panels(length)
    larger.keys[:, :, :panels] = cache.keys[:, :, :panels]
    larger.values[:, :length] = cache.values[:, :length]
    if cache.steps is not None:
        larger.steps[..., :length] = cache.steps[..., :length]
    larger.extend(length)
    return larger


def with_rows(array: Array, rows: int) -> Array:
    """Return the array itself if it has this many rows, else a longer one that begins with it."""
    if rows <= len(array):
        return array
    larger = array_module(array).zeros((rows, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


class TreeRows:
    """Keys and values (L, T, G, C) of the T rows of a draft tree, outside the cache until it is
    known which are accepted. Rows of an int8 cache have steps (L, T, 2, G).
    """

    def __init__(self, cache: KeyValueCache, rows: int) -> None:
        layers, _, heads, head_dim = cache.values.shape
        xp, shape = array_module(cache.values), (layers, rows, heads, head_dim)
        self.keys = xp.empty(shape, cache.values.dtype)
        self.values = xp.empty(shape, cache.values.dtype)
        steps_shape = layers, rows, 2, heads
        self.steps = None if cache.steps is None else xp.empty(steps_shape, cache.steps.dtype)
        self._cache = cache

    def append_to_cache(self, rows: Array) -> None:
        """Append these rows, integers (R,), to the cache. Raises ValueError if they do not fit."""
        cache, start = self._cache, self._cache.length
        cache.extend(len(rows))
        positions = array_module(rows).arange(start, cache.length)
        kept = self.keys[:, rows].swapaxes(0, 1)  # (R, L, G, C)
        cache.keys[:, :, positions // KEY_PANEL, :, positions % KEY_PANEL] = kept
        cache.values[:, start : cache.length] = self.values[:, rows]
        if cache.steps is not None:
            new_steps = self.steps[:, rows].transpose(0, 2, 3, 1)  # (L, 2, G, R)
            cache.steps[..., start : cache.length] = new_steps
