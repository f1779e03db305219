"""Solutions of lesson 3: attention, rotary positions, and the gradient of the softmax."""

from tests.exercise_mutants import Solutions, changed

ATTENTION = """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, _ = q.shape
    result = np.empty_like(q)
    for t in range(rows):
        seen = start + t + 1
        for head in range(heads):
            group = head // (heads // len(keys))
            scores = scale * (q[t, head] @ keys[group, :, :seen])
            weights = np.exp(scores - scores.max())
            result[t, head] = weights @ values[:seen, group] / weights.sum()
    return result
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "a loop over tokens and heads": ATTENTION,
        "all heads at once, the mask as a large negative number": """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, head_dim = q.shape
    last = start + rows
    share = heads // len(keys)
    k = np.repeat(keys[:, :, :last], share, axis=0)
    v = np.repeat(values[:last], share, axis=1)
    scores = np.einsum("thc,hcs->ths", q, k) * scale
    future = np.arange(last) > start + np.arange(rows)[:, None]
    scores = np.where(future[:, None], -1e30, scores)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = p / p.sum(axis=-1, keepdims=True)
    return np.einsum("ths,shc->thc", p, v)
""",
        "token by token": """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, head_dim = q.shape
    grouped = q.reshape(rows, len(keys), -1, head_dim)
    outputs = []
    for t, query in enumerate(grouped):
        scores = query @ keys[..., : start + t + 1] * scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        outputs.append(weights @ values[: start + t + 1].transpose(1, 0, 2))
    return np.array(outputs).reshape(q.shape)
""",
    },
    wrong={
        "no causal mask": changed(ATTENTION, ("seen = start + t + 1", "seen = start + rows")),
        "a token does not see itself": changed(
            ATTENTION, ("seen = start + t + 1", "seen = max(1, start + t)")
        ),
        "a token sees the next one": changed(
            ATTENTION, ("seen = start + t + 1", "seen = min(start + t + 2, keys.shape[2])")
        ),
        "earlier positions are ignored": changed(
            ATTENTION, ("seen = start + t + 1", "seen = t + 1")
        ),
        "no scale": changed(ATTENTION, ("scores = scale * ", "scores = ")),
        "the weights are scaled, not the scores": changed(
            ATTENTION, ("scores = scale * ", "scores = "), ("weights @", "scale * weights @")
        ),
        "key/value heads in turn": changed(
            ATTENTION, ("head // (heads // len(keys))", "head % len(keys)")
        ),
        "always the first key/value head": changed(
            ATTENTION, ("head // (heads // len(keys))", "0")
        ),
        "the weights do not sum to 1": changed(ATTENTION, (" / weights.sum()", "")),
        "the largest score is not subtracted": changed(ATTENTION, (" - scores.max()", "")),
        "the largest score of all tokens is subtracted": """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, _ = q.shape
    share, seen = heads // len(keys), start + rows
    hidden = np.triu(np.full((rows, seen), -np.inf), start + 1)
    result = np.empty_like(q)
    for head in range(heads):
        scores = scale * q[:, head] @ keys[head // share, :, :seen] + hidden
        weights = np.exp(scores - scores.max())
        weights /= weights.sum(axis=1, keepdims=True)
        result[:, head] = weights @ values[:seen, head // share]
    return result
""",
        "the largest score is that of a hidden position": """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, _ = q.shape
    share, seen = heads // len(keys), start + rows
    mask = np.tril(np.ones((rows, seen)), start)
    result = np.empty_like(q)
    for head in range(heads):
        scores = scale * q[:, head] @ keys[head // share, :, :seen]
        weights = np.exp(scores - scores.max(axis=1, keepdims=True)) * mask
        weights /= weights.sum(axis=1, keepdims=True)
        result[:, head] = weights @ values[:seen, head // share]
    return result
""",
        "the weights of the heads sum to 1, not those of the positions": """
import numpy as np

from minimtp.kernels.plain.cache import joined_panels

def cached_attention(q, keys, values, start, scale):
    keys = joined_panels(keys)
    rows, heads, _ = q.shape
    result = np.empty_like(q)
    for t in range(rows):
        seen = start + t + 1
        groups = np.arange(heads) // (heads // len(keys))
        scores = np.array([scale * q[t, h] @ keys[groups[h], :, :seen] for h in range(heads)])
        weights = np.exp(scores - scores.max(axis=0))
        weights /= weights.sum(axis=0)
        for h in range(heads):
            result[t, h] = weights[h] @ values[:seen, groups[h]]
    return result
""",
        "the keys instead of the values": changed(
            ATTENTION, ("values[:seen, group]", "keys[group, :, :seen].T")
        ),
        "the query is changed": changed(
            ATTENTION,
            ("    rows, heads, _ = q.shape\n", "    rows, heads, _ = q.shape\n    q *= scale\n"),
            ("scores = scale * ", "scores = "),
        ),
    },
)

ROTATE = """
import numpy as np

def rotate(x, cos, sin):
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    result = np.empty_like(x)
    result[..., 0::2] = even * cos - odd * sin
    result[..., 1::2] = even * sin + odd * cos
    return result
"""

EXERCISES[2] = Solutions(
    right={
        "into an empty array": ROTATE,
        "a matrix for each position and pair": """
import numpy as np

def rotate(x, cos, sin):
    matrix = np.array([[cos, -sin], [sin, cos]])
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return np.einsum("ijtp,bthpj->bthpi", matrix, pairs).reshape(x.shape)
""",
        "stacked pairs": """
import numpy as np

def rotate(x, cos, sin):
    a, b = x[..., ::2], x[..., 1::2]
    c, s = cos[None, :, None, :], sin[None, :, None, :]
    return np.stack([a * c - b * s, b * c + a * s], axis=-1).reshape(x.shape)
""",
    },
    wrong={
        "the opposite direction": changed(
            ROTATE,
            ("- odd * sin", "+ odd * sin"),
            ("even * sin + odd", "odd * cos - even * sin + 0 * odd"),
        ),
        "a sign": changed(ROTATE, ("- odd * sin", "+ odd * sin")),
        "the halves are the pairs": changed(
            ROTATE,
            (
                "x[..., 0::2], x[..., 1::2]",
                "x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]",
            ),
        ),
        "only the even channels": changed(ROTATE, ("even * sin + odd * cos", "odd")),
        "the odd channels read the new even ones": changed(
            ROTATE, ("= even * sin + odd * cos", "= result[..., 0::2] * sin + odd * cos")
        ),
        "x is changed": changed(ROTATE, ("np.empty_like(x)", "x")),
        "x is changed, with the right result": changed(
            ROTATE, ("    return result", "    x[:] = result\n    return result")
        ),
        "the angles of the heads": changed(
            ROTATE,
            (
                "    cos, sin = cos[:, None], sin[:, None]\n",
                "    cos, sin = (np.resize(a, (x.shape[2], a.shape[1])) for a in (cos, sin))\n",
            ),
        ),
        "the angle of the first position": changed(
            ROTATE, ("cos[:, None], sin[:, None]", "cos[0], sin[0]")
        ),
        "sine and cosine exchanged": changed(
            ROTATE,
            ("cos, sin = cos[:, None], sin[:, None]", "sin, cos = cos[:, None], sin[:, None]"),
        ),
    },
)

BACKWARD = """
def causal_softmax_backward(grad, probabilities, scale):
    mean = (grad * probabilities).sum(axis=-1, keepdims=True)
    grad[:] = scale * probabilities * (grad - mean)
    return grad
"""

EXERCISES[3] = Solutions(
    right={
        "into the array": BACKWARD,
        "by the two terms": """
import numpy as np

def causal_softmax_backward(grad, probabilities, scale):
    np.multiply(grad, probabilities, out=grad)
    grad -= probabilities * grad.sum(axis=2)[:, :, None]
    grad *= scale
    return grad
""",
        "row by row, with the matrix of derivatives": """
import numpy as np

def causal_softmax_backward(grad, probabilities, scale):
    for matrix, p_matrix in zip(grad, probabilities):
        for row, p in zip(matrix, p_matrix):
            row[...] = scale * (np.diag(p) - np.outer(p, p)) @ row
    return grad
""",
    },
    wrong={
        "no average is subtracted": changed(BACKWARD, ("(grad - mean)", "grad")),
        "the plain mean": changed(BACKWARD, ("(grad * probabilities).sum(", "grad.mean(")),
        "the sum of each column": changed(BACKWARD, ("axis=-1", "axis=-2")),
        "the sum of each matrix": changed(BACKWARD, ("axis=-1", "axis=(-1, -2)")),
        "no scale": changed(BACKWARD, ("scale * prob", "prob")),
        "divided by the scale": changed(BACKWARD, ("scale * prob", "1 / scale * prob")),
        "only the derivative of a probability by its own score": changed(
            BACKWARD, ("(grad - mean)", "grad * (1 - probabilities)")
        ),
        "the average is not weighted": changed(
            BACKWARD,
            ("scale * probabilities * (grad - mean)", "scale * (probabilities * grad - mean)"),
        ),
        "a new array": changed(BACKWARD, ("grad[:] = scale", "grad = scale")),
        "the probabilities are overwritten": changed(
            BACKWARD, ("    return grad", "    probabilities[:] = grad\n    return grad")
        ),
    },
)
