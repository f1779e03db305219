"""The attention of an EAGLE-3 head in training, where its K steps are unrolled at every position.

In decoding, step k at position p (its anchor) is row p + k - 1 of a chain. It attends to the rows
of the text up to p, which step 1 has computed from the trunk's states, and to its own rows p + 1,
..., p + k - 1, which steps 2..k have computed from drafts. In training, every position is the
anchor of a chain, and the chains share the rows of step 1:

    row            p=0  p=1  p=2  p=3 | 2  3  ...        the keys that step 3 attends to
    anchor 0        x              .  | x  x             (steps 2 and 3 of the same anchor)
    anchor 1        x    x            | x  x
    anchor 2        x    x    x       | x  x

So step k has scores with T shared keys, masked after its anchor, and with k - 1 keys of its own,
one of each step: a diagonal instead of a matrix (Li et al. 2025, arXiv 2503.01840, section 3.2,
"training-time test").
"""

from collections.abc import Sequence

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.engine.tensor import Op, is_recording


class Rotate(Op):
    """Rotary positions: x (B, T, heads * C), T rows at the given angles (T, C/2)."""

    def __init__(self, cosine: Array, sine: Array) -> None:
        self.cosine, self.sine = cosine, sine

    def forward(self, x: Array) -> Array:
        return self._rotated(x, self.sine)

    def backward(self, gradient: Array) -> Array:
        return self._rotated(gradient, -self.sine)

    def _rotated(self, x: Array, sine: Array) -> Array:
        batch, length, width = x.shape
        by_head = x.reshape(batch, length, -1, 2 * self.cosine.shape[1])  # (B, T, heads, C)
        rotated = kernels.for_array(x).rotate(by_head, self.cosine, sine)
        return rotated.reshape(batch, length, width)


class UnrolledAttention(Op):
    """Attention of step k = 1 + J at n anchors: to the T rows of step 1 up to the anchor, and to J
    rows of its own.

    Inputs, queries and keys already rotated: queries (B, n, H C), keys and values of step 1
    (B, T, G C), then keys and values (B, n, G C) of each step 2..k. Output (B, n, H C). Query head
    h uses key and value head h // (H/G). anchors: (n,) positions, increasing.
    """

    def __init__(self, num_heads: int, num_kv_heads: int, anchors: Array) -> None:
        self.heads, self.kv_heads, self.anchors = num_heads, num_kv_heads, anchors

    def forward(self, queries: Array, keys: Array, values: Array, *own: Array) -> Array:
        xp, kernel = array_module(queries), kernels.for_array(queries)
        batch, rows, width = queries.shape
        length, head_dim = keys.shape[1], width // self.heads
        self.sizes, self.scale = (batch, rows, head_dim), head_dim**-0.5
        grouped = self._by_kv_head(queries)  # (B*G, H/G, n, C)
        self.queries = grouped
        self.keys, self.values = self._shared(keys), self._shared(values)  # (B*G, T, C)
        self.own_keys = self._own(own[0::2], grouped)  # (B*G, 1, n, J, C)
        self.own_values = self._own(own[1::2], grouped)
        scores = xp.empty((*grouped.shape[:3], length + len(own) // 2), queries.dtype)
        flat = grouped.reshape(len(grouped), -1, head_dim)  # (B*G, H/G*n, C)
        shared = kernel.matmul(flat, self.keys.swapaxes(1, 2))  # (B*G, H/G*n, T)
        scores[..., :length] = shared.reshape(*grouped.shape[:3], length)
        future = xp.arange(length)[None, :] > self.anchors[:, None]  # (n, T)
        xp.copyto(scores[..., :length], queries.dtype.type(-xp.inf), where=future)
        scores[..., length:] = (grouped[..., None, :] * self.own_keys).sum(axis=-1)
        scores *= queries.dtype.type(self.scale)
        scores -= scores.max(axis=-1, keepdims=True)
        xp.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)  # (B*G, H/G, n, T + J)
        attended = kernel.matmul(self._rows(scores[..., :length]), self.values)
        attended = attended.reshape(grouped.shape)
        attended += (scores[..., length:, None] * self.own_values).sum(axis=-2)
        if is_recording():
            self.probabilities = scores
        return self._by_position(attended)  # (B, n, H*C)

    def backward(self, gradient: Array) -> tuple[Array, ...]:
        kernel, length = kernels.for_array(gradient), self.keys.shape[1]
        grouped = self._by_kv_head(gradient)  # (B*G, H/G, n, C)
        flat = grouped.reshape(len(grouped), -1, grouped.shape[-1])  # (B*G, H/G*n, C)
        shared, own = self.probabilities[..., :length], self.probabilities[..., length:]
        dvalues = kernel.matmul(self._rows(shared).swapaxes(1, 2), flat)  # (B*G, T, C)
        down_values = (own[..., None] * grouped[..., None, :]).sum(axis=1)  # (B*G, n, J, C)
        dscores = array_module(gradient).empty_like(self.probabilities)
        to_shared = kernel.matmul(flat, self.values.swapaxes(1, 2))
        dscores[..., :length] = to_shared.reshape(shared.shape)
        dscores[..., length:] = (grouped[..., None, :] * self.own_values).sum(axis=-1)
        dscores -= (dscores * self.probabilities).sum(axis=-1, keepdims=True)
        dscores *= self.probabilities
        dscores *= dscores.dtype.type(self.scale)
        dshared, down = self._rows(dscores[..., :length]), dscores[..., length:, None]
        dqueries = kernel.matmul(dshared, self.keys).reshape(grouped.shape)
        dqueries += (down * self.own_keys).sum(axis=-2)
        queries = self.queries.reshape(flat.shape)
        dkeys = kernel.matmul(dshared.swapaxes(1, 2), queries)  # (B*G, T, C)
        down_keys = (down * self.queries[..., None, :]).sum(axis=1)  # (B*G, n, J, C)
        gradients = [self._by_position(dqueries), self._by_position(dkeys[:, None])]
        gradients.append(self._by_position(dvalues[:, None]))
        for step in range(own.shape[-1]):
            gradients.append(self._by_position(down_keys[:, None, :, step]))
            gradients.append(self._by_position(down_values[:, None, :, step]))
        return tuple(gradients)

    def _by_kv_head(self, x: Array) -> Array:
        """(B, n, heads * C) -> (B*G, heads/G, n, C), contiguous."""
        batch, rows, head_dim = x.shape[0], x.shape[1], self.sizes[2]
        by_head = x.reshape(batch, rows, -1, head_dim).transpose(0, 2, 1, 3)
        contiguous = array_module(x).ascontiguousarray(by_head)
        return contiguous.reshape(batch * self.kv_heads, -1, rows, head_dim)

    def _by_position(self, x: Array) -> Array:
        """(B*G, heads/G, n, C) -> (B, n, heads * C), the inverse of `_by_kv_head`."""
        batch, (_, _, rows, head_dim) = self.sizes[0], x.shape
        by_head = x.reshape(batch, -1, rows, head_dim).transpose(0, 2, 1, 3)
        return array_module(x).ascontiguousarray(by_head).reshape(batch, rows, -1)

    def _shared(self, x: Array) -> Array:
        """(B, T, G * C) -> (B*G, T, C)."""
        return self._by_kv_head(x)[:, 0]

    def _own(self, parts: Sequence[Array], like: Array) -> Array:
        """J arrays (B, n, G * C) -> (B*G, 1, n, J, C)."""
        xp = array_module(like)
        if not parts:
            return xp.empty((len(like), 1, like.shape[2], 0, like.shape[3]), like.dtype)
        return xp.stack([self._by_kv_head(part) for part in parts], axis=3)

    @staticmethod
    def _rows(scores: Array) -> Array:
        """(B*G, H/G, n, S) -> (B*G, H/G*n, S), contiguous."""
        return array_module(scores).ascontiguousarray(
            scores.reshape(len(scores), -1, scores.shape[-1])
        )
