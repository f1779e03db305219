"""Attention in plain array code: rotary positions, the causal softmax of training, attention over a
cache.
"""

from minimtp.backend import Array, array_module
from minimtp.kernels.plain.cache import first_panels, joined_panels


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) on adjacent pairs:

        (a, b) -> (a cos - b sin, a sin + b cos),  the complex product (a + ib) (cos + i sin)

    x (B, T, H, C), cos and sin (T, C/2) -> new array (B, T, H, C). The inverse is `rotate(x, cos,
    -sin)`. It is also the backward pass, because the transpose of a rotation is its inverse.
    """
    complex_type = f"c{2 * x.itemsize}"
    pairs = array_module(x).ascontiguousarray(x).view(complex_type)  # (B, T, H, C/2)
    rotation = (cos + 1j * sin).astype(complex_type)  # (T, C/2)
    return (pairs * rotation[:, None]).view(x.dtype)


def causal_softmax(scores: Array, scale: float) -> Array:
    """Compute the softmax of scores * scale over each row's own position and the positions before
    it. The result is zero for later positions.

    scores (M, L, S): the last L of S positions, so row i sees columns 0..S-L+i. scale > 0 ->
    probabilities (M, L, S). Works IN PLACE: the result is `scores`, overwritten.
    """
    xp = array_module(scores)
    rows, columns = scores.shape[1:]
    future = xp.triu(xp.ones((rows, columns), dtype=bool), 1 + columns - rows)
    scores *= scores.dtype.type(scale)
    xp.copyto(scores, scores.dtype.type(-xp.inf), where=future)
    scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def causal_softmax_backward(grad: Array, probabilities: Array, scale: float) -> Array:
    """Gradient of `causal_softmax`: p * (grad - sum(grad * p)) * scale, for each row.

    grad and probabilities (M, L, S) -> (M, L, S). Works IN PLACE: overwrites `grad` and returns it.
    """
    grad -= (grad * probabilities).sum(axis=-1, keepdims=True)
    grad *= probabilities
    grad *= grad.dtype.type(scale)
    return grad


def cached_attention(q: Array, keys: Array, values: Array, start: int, scale: float) -> Array:
    """Attention of T new tokens over all positions so far: token t attends to positions 0..start+t.

    q (T, H, C), keys (G, N, C, P) in panels of P positions, values (S, G, C), S >= start + T,
    N P >= start + T, scale > 0 -> (T, H, C).
    Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): query head h uses key/value
    head h // (H // G). The scores are the dot products times `scale`. Positions after start+T-1
    do not influence the result.
    """
    xp = array_module(q)
    rows, heads, head_dim = q.shape
    kv_heads = keys.shape[0]
    length = start + rows
    by_kv_head = q.reshape(rows, kv_heads, heads // kv_heads, head_dim)
    queries = by_kv_head.transpose(1, 2, 0, 3)  # (G, H/G, T, C)
    keys = joined_panels(first_panels(keys, length))[:, None, :, :length]  # (G, 1, C, S)
    values = values[:length].transpose(1, 0, 2)[:, None]  # (G, 1, S, C)
    scores = xp.matmul(queries, keys) * q.dtype.type(scale)  # (G, H/G, T, S)
    future = xp.arange(length)[None, :] > start + xp.arange(rows)[:, None]  # (T, S)
    xp.copyto(scores, q.dtype.type(-xp.inf), where=future)
    scores -= scores.max(axis=-1, keepdims=True)
    xp.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    by_token = xp.matmul(scores, values).transpose(2, 0, 1, 3)  # (T, G, H/G, C)
    return xp.ascontiguousarray(by_token).reshape(rows, heads, head_dim)
