"""The operations that take most of a language model's time. Each is one node of the graph instead
of about ten.

They call `minimtp.kernels`, which has plain and compiled versions of the same computation. To save
memory, each operation stores its inputs and small statistics for the backward pass rather than
intermediate results.
"""

from minimtp import kernels
from minimtp.backend import Array, array_module
from minimtp.engine.precision import matmul, operand
from minimtp.engine.tensor import Op, is_recording

QUERIES = 64  # queries that attention processes together


class LinearMatMul(Op):
    """y = x Wᵀ for x (..., K) and W (N, K). Then dx = dy W and dW = dyᵀ x, summed over all rows.
    Only the gradients that are needed are computed.
    """

    def forward(self, x: Array, weight: Array) -> Array:
        self.shape = x.shape
        self.x, self.weight = operand(x.reshape(-1, x.shape[-1])), operand(weight)  # (M, K), (N, K)
        return matmul(self.x, self.weight.T).reshape(*x.shape[:-1], weight.shape[0])

    def backward(self, gradient: Array) -> tuple[Array | None, Array | None]:
        rows = operand(gradient.reshape(-1, gradient.shape[-1]))  # (M, N)
        dx = matmul(rows, self.weight).reshape(self.shape) if self.needs(0) else None  # (..., K)
        return dx, matmul(rows.T, self.x) if self.needs(1) else None  # (N, K)


class EmbeddingLookup(Op):
    """weight[tokens]: tokens (B, T) integers, weight (V, D) -> (B, T, D). Gradients of repeated
    tokens add up.
    """

    def __init__(self, tokens: Array) -> None:
        self.tokens = tokens

    def forward(self, weight: Array) -> Array:
        self.weight = weight
        return weight[self.tokens]

    def backward(self, gradient: Array) -> Array:
        result = array_module(gradient).zeros_like(self.weight)
        rows = gradient.reshape(-1, gradient.shape[-1])  # (B*T, D)
        kernels.for_array(rows).embedding_backward(rows, self.tokens.reshape(-1), result)
        return result


class RMSNormalize(Op):
    """y = weight * x / sqrt(mean(x²) + epsilon) along the last axis (Zhang & Sennrich 2019, arXiv
    1910.07467).
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def forward(self, x: Array, weight: Array) -> Array:
        self.shape, self.weight = x.shape, weight
        self.x = x.reshape(-1, x.shape[-1])  # (M, D)
        y, self.inverse_rms = kernels.for_array(x).rms_norm(self.x, weight, self.epsilon)
        return y.reshape(x.shape)

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        rows = gradient.reshape(self.x.shape)
        dx, dweight = kernels.for_array(rows).rms_norm_backward(
            rows, self.x, self.weight, self.inverse_rms
        )
        return dx.reshape(self.shape), dweight


class SwiGLU(Op):
    """silu(gate) * up for gate_up (..., 2F) holding gate, then up -> (..., F) (Shazeer 2020, arXiv
    2002.05202).
    """

    def forward(self, gate_up: Array) -> Array:
        self.gate_up = gate_up.reshape(-1, gate_up.shape[-1])  # (M, 2F)
        y = kernels.for_array(gate_up).swiglu(self.gate_up)
        return y.reshape(*gate_up.shape[:-1], gate_up.shape[-1] // 2)

    def backward(self, gradient: Array) -> Array:
        rows = gradient.reshape(-1, gradient.shape[-1])  # (M, F)
        result = kernels.for_array(rows).swiglu_backward(rows, self.gate_up)
        return result.reshape(*gradient.shape[:-1], 2 * gradient.shape[-1])


class GatedUpdate(Op):
    """s + sigmoid(gate) * (candidate - s) for a state s (..., D) and gate_candidate (..., 2D), gate
    first.

    The smallest gated recurrent step: the gate decides per channel how much of the state is
    replaced.
    """

    def forward(self, state: Array, gate_candidate: Array) -> Array:
        """state (..., D), gate_candidate (..., 2D) -> the new state (..., D)."""
        self.shape = state.shape
        self.state = state.reshape(-1, state.shape[-1])  # (M, D)
        self.gate_candidate = gate_candidate.reshape(-1, gate_candidate.shape[-1])  # (M, 2D)
        return (
            kernels.for_array(state)
            .gated_update(self.state, self.gate_candidate)
            .reshape(self.shape)
        )

    def backward(self, gradient: Array) -> tuple[Array, Array]:
        """Gradient (..., D) of the new state -> those of state and gate_candidate, (..., D) and
        (..., 2D).
        """
        rows = gradient.reshape(self.state.shape)
        kernel = kernels.for_array(rows)
        dstate, dgate_candidate = kernel.gated_update_backward(
            rows, self.state, self.gate_candidate
        )
        size = 2 * self.shape[-1]
        return dstate.reshape(self.shape), dgate_candidate.reshape(*self.shape[:-1], size)


class CausalAttention(Op):
    """Rotary grouped-query attention over a whole sequence, from fused projection to joined heads.

    qkv (B, T, (H + 2G) C) holds H query heads, G key heads and G value heads, with head_dim C.
    Query head h uses key and value head h // (H/G). With R the rotation by position (Su et al.
    2021, arXiv 2104.09864), on adjacent pairs,

        q' = R q,  k' = R k,  P = softmax(q' k'ᵀ / sqrt(C)) over positions <= its own,
        output = P v     (B, T, H C)

    Backward, with g the output's gradient:

        dv = Pᵀ g,  dP = g vᵀ,  dS = P ∘ (dP - rowsum(P ∘ dP)) / sqrt(C)
        dq' = dS k',  dk' = dSᵀ q'

    and the opposite rotation undoes R. The H/G query heads of a group are stacked as rows of one
    matrix product, which also sums their gradients of k and v.

    `QUERIES` queries are processed together, with the keys up to the last query. So most masked
    scores are never computed. Without a backward pass, their probabilities are not kept, so the
    memory grows with T and not with T².
    """

    def __init__(self, num_heads: int, num_kv_heads: int, cosine: Array, sine: Array) -> None:
        self.heads, self.kv_heads = num_heads, num_kv_heads
        self.cosine, self.sine = cosine, sine  # (T, C/2)

    def forward(self, qkv: Array) -> Array:
        batch, length, width = qkv.shape
        head_dim = width // (self.heads + 2 * self.kv_heads)
        self.sizes = batch, length, head_dim
        self.scale = head_dim**-0.5
        xp, kernel = array_module(qkv), kernels.for_array(qkv)
        joined = qkv.reshape(batch, length, -1, head_dim)  # (B, T, H+2G, C)
        turned = joined[:, :, : self.heads + self.kv_heads]  # queries and keys
        rotated = kernel.rotate(turned, self.cosine, self.sine)  # (B, T, H+G, C)
        self.query = self._by_kv_head(rotated[:, :, : self.heads])  # (B*G, H/G, T, C)
        self.key = self.quantize_kv(
            self._by_kv_head(rotated[:, :, self.heads :])[:, 0]
        )  # (B*G, T, C)
        values = joined[:, :, self.heads + self.kv_heads :]  # (B, T, G, C)
        self.value = self.quantize_kv(self._by_kv_head(values)[:, 0])  # (B*G, T, C)
        attended = xp.empty_like(self.query)  # (B*G, H/G, T, C)
        self.probabilities = []
        for now in self._query_blocks():  # L queries, S keys
            scores = kernel.matmul(
                self._rows(self.query, now), self.key[:, : now.stop].swapaxes(1, 2)
            )  # (B*G, H/G*L, S)
            by_head = scores.reshape(-1, now.stop - now.start, now.stop)
            probabilities = kernel.causal_softmax(by_head, self.scale).reshape(scores.shape)
            self._set_rows(attended, now, kernel.matmul(probabilities, self.value[:, : now.stop]))
            if is_recording():
                self.probabilities.append(probabilities)
        return self._by_position(attended).reshape(batch, length, -1)  # (B, T, H*C)

    def backward(self, gradient: Array) -> Array:
        batch, length, head_dim = self.sizes
        xp, kernel = array_module(gradient), kernels.for_array(gradient)
        doutput = self._by_kv_head(
            gradient.reshape(batch, length, self.heads, head_dim)
        )  # (B*G, H/G, T, C)
        dquery = xp.empty_like(self.query)
        dkey = xp.zeros_like(self.key)
        dvalue = xp.zeros_like(self.value)
        for now, probabilities in zip(self._query_blocks(), self.probabilities, strict=True):
            rows = self._rows(doutput, now)  # (B*G, H/G*L, C)
            dvalue[:, : now.stop] += kernel.matmul(probabilities.swapaxes(1, 2), rows)
            # (B*G, H/G*L, S), so far the gradient of the probabilities
            dscores = kernel.matmul(rows, self.value[:, : now.stop].swapaxes(1, 2))
            by_head = (-1, now.stop - now.start, now.stop)
            gradients = kernel.causal_softmax_backward(
                dscores.reshape(by_head), probabilities.reshape(by_head), self.scale
            )
            dscores = gradients.reshape(dscores.shape)
            self._set_rows(dquery, now, kernel.matmul(dscores, self.key[:, : now.stop]))
            dkey[:, : now.stop] += kernel.matmul(
                dscores.swapaxes(1, 2), self._rows(self.query, now)
            )
        turned = xp.concatenate(
            [self._by_position(dquery), self._by_position(dkey)], axis=2
        )  # (B, T, H+G, C)
        unrotated = kernel.rotate(turned, self.cosine, -self.sine)
        result = xp.concatenate([unrotated, self._by_position(dvalue)], axis=2)  # (B, T, H+2G, C)
        return result.reshape(batch, length, -1)

    def quantize_kv(self, rows: Array) -> Array:
        """Return keys or values (B*G, T, C) as a KV cache returns them: here unchanged."""
        return rows

    def _query_blocks(self) -> list[slice]:
        length = self.sizes[1]
        return [slice(start, min(start + QUERIES, length)) for start in range(0, length, QUERIES)]

    def _by_kv_head(self, x: Array) -> Array:
        """(B, T, heads, C) -> (B*G, heads/G, T, C), contiguous."""
        batch, length, head_dim = self.sizes
        by_head = array_module(x).ascontiguousarray(x.transpose(0, 2, 1, 3))
        return by_head.reshape(batch * self.kv_heads, -1, length, head_dim)

    def _by_position(self, x: Array) -> Array:
        """(B*G, heads/G, T, C) or (B*G, T, C) -> (B, T, heads, C), the inverse of `_by_kv_head`."""
        batch, length, head_dim = self.sizes
        return x.reshape(batch, -1, length, head_dim).transpose(0, 2, 1, 3)

    @staticmethod
    def _rows(x: Array, now: slice) -> Array:
        """(B*G, H/G, T, C) -> the rows of the queries in the slice `now`, (B*G, H/G*L, C)."""
        return x[:, :, now].reshape(x.shape[0], -1, x.shape[3])

    @staticmethod
    def _set_rows(x: Array, now: slice, rows: Array) -> None:
        x[:, :, now] = rows.reshape(x.shape[0], x.shape[1], -1, x.shape[3])


class CrossEntropy(Op):
    """Negative log-likelihood of each target in nats: logits (N, V), targets (N,) integers -> (N,).

    A target of -1 is ignored: its loss is 0.

    The gradient is (softmax(logits) - onehot(target)) times the row's incoming gradient. The
    softmax is not stored.
    """

    def __init__(self, targets: Array) -> None:
        self.targets = targets

    def forward(self, logits: Array) -> Array:
        self.logits = logits
        losses, self.log_sum_exp = kernels.for_array(logits).cross_entropy(logits, self.targets)
        return losses

    def backward(self, gradient: Array) -> Array:
        kernel = kernels.for_array(self.logits)
        return kernel.cross_entropy_backward(self.logits, self.targets, self.log_sum_exp, gradient)
