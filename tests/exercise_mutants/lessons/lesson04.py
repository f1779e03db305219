"""Solutions of lesson 4: softmax, the KV cache, top-k and top-p."""

from tests.exercise_mutants import Solutions, changed

SOFTMAX = """
def softmax(scores):
    weights = np.exp(scores - _finite_maxima(scores))
    return weights / weights.sum(axis=-1, keepdims=True, dtype=np.float64)
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "the sum in float64": SOFTMAX,
        "everything in float64, by the logarithm of the sum": """
def softmax(scores):
    shifted = np.asarray(scores, np.float64) - _finite_maxima(scores)
    return np.exp(shifted - np.log(np.exp(shifted).sum(axis=1))[:, None])
""",
        "row by row": """
import math

def softmax(scores):
    rows = []
    for row, (largest,) in zip(scores, _finite_maxima(scores)):
        weights = [float(np.exp(score - largest)) for score in row]
        rows.append([weight / math.fsum(weights) for weight in weights])
    return np.array(rows, dtype="float64")
""",
    },
    wrong={
        "the maximum is not subtracted": changed(
            SOFTMAX, (" - _finite_maxima(scores)", "+ 0 * _finite_maxima(scores)")
        ),
        "the maximum of all rows": changed(
            SOFTMAX, ("_finite_maxima(scores)", "_finite_maxima(scores).max()")
        ),
        "the mean is subtracted": changed(
            SOFTMAX, ("_finite_maxima(scores)", "scores.mean(axis=-1, keepdims=True)")
        ),
        "the sum of all rows": changed(SOFTMAX, ("axis=-1", "axis=None")),
        "the sum in float32": changed(
            SOFTMAX, (", dtype=np.float64)", ").astype(np.float64)"), ("exp(", "exp(1.0 * ")
        ),
        "the result in float32": changed(SOFTMAX, (", dtype=np.float64", "")),
        "a maximum that is not finite is accepted": changed(
            SOFTMAX, ("_finite_maxima(scores)", "scores.max(axis=-1, keepdims=True)")
        ),
        "the scores are changed": """
def softmax(scores):
    scores -= _finite_maxima(scores)
    weights = np.exp(scores)
    return weights / weights.sum(axis=-1, keepdims=True, dtype=np.float64)
""",
    },
)

CACHE = """
class KeyValueCache:
    def write(self, layer, keys, values):
        first, last = self.length, self.length + len(keys)
        if last > self.context_length:
            raise ValueError("the cache is full")
        for row, key in enumerate(keys, start=first):
            self.keys[layer, :, row // 32, :, row % 32] = key
        self.values[layer, first:last] = values
        return self.layer(layer)

    def extend(self, rows):
        if rows < 0 or self.length + rows > self.context_length:
            raise ValueError("the cache is full")
        self.length += rows

    def truncate(self, length):
        if length < 0 or length > self.length:
            raise ValueError("there are fewer rows")
        self.length = length
"""

EXERCISES[2] = Solutions(
    right={
        "other messages": CACHE,
        "row by row, and dropped rows are set to zero": """
class KeyValueCache:
    def write(self, layer, keys, values):
        if len(keys) + self.length > self.context_length:
            raise ValueError(f"no room for {len(keys)} rows")
        stored_keys, stored_values = self.layer(layer)
        for row, (key, value) in enumerate(zip(keys, values), start=self.length):
            panel, place = divmod(row, stored_keys.shape[-1])
            stored_keys[:, panel, :, place], stored_values[row] = key, value
        return stored_keys, stored_values

    def extend(self, rows):
        if self.length + rows not in range(self.length, self.context_length + 1):
            raise ValueError(rows)
        self.length = self.length + rows

    def truncate(self, length):
        if length not in range(self.length + 1):
            raise ValueError(length)
        for keys, values in (self.layer(layer) for layer in range(len(self.keys))):
            for row in range(length, self.length):
                keys[:, row // 32, :, row % 32] = 0
            values[length:] = 0
        self.length = length
""",
    },
    wrong={
        "write returns nothing": changed(CACHE, ("        return self.layer(layer)\n", "")),
        "write returns its arguments": changed(CACHE, ("self.layer(layer)", "keys, values")),
        "write changes the length": changed(
            CACHE, ("        return self", "        self.length = last\n        return self")
        ),
        "write starts at the first row": changed(
            CACHE, ("self.length, self.length + len(keys)", "0, len(keys)")
        ),
        "write does not check its rows": changed(
            CACHE,
            ('        if last > self.context_length:\n            raise ValueError("the', "#"),
        ),
        "write checks after it has written": """
class KeyValueCache:
    def write(self, layer, keys, values):
        for row, (key, value) in enumerate(zip(keys, values), start=self.length):
            if row == self.context_length:
                raise ValueError("the cache is full")
            self.keys[layer, :, row // 32, :, row % 32] = key
            self.values[layer, row] = value
        return self.layer(layer)
"""
        + CACHE.partition("return self.layer(layer)\n")[2],
        "write needs a free row": changed(CACHE, ("last > self", "last >= self")),
        "the axes of a key in another order": changed(
            CACHE, ("= key\n", "= key.reshape(key.shape[::-1]).T\n")
        ),
        "every panel is the first": changed(CACHE, ("row // 32", "0")),
        "panels and places are exchanged": changed(
            CACHE, (":, row // 32, :, row % 32", ":, row % 2, :, row // 2")
        ),
        "keys also as values": changed(CACHE, ("= values", "= keys")),
        "extend accepts a negative number": changed(CACHE, ("rows < 0 or ", "")),
        "extend accepts too many rows": changed(
            CACHE, (" or self.length + rows > self.context_length", "")
        ),
        "extend replaces the length": changed(CACHE, ("self.length += rows", "self.length = rows")),
        "truncate fills the dropped rows with NaN": changed(
            CACHE,
            (
                "        self.length = length",
                "        self.keys[..., length:] = np.nan\n        self.length = length",
            ),
        ),
        "truncate drops this many rows": changed(
            CACHE, ("        self.length = length", "        self.length -= length")
        ),
        "truncate accepts a negative length": changed(CACHE, ("length < 0 or ", "")),
        "truncate accepts a larger length": changed(CACHE, (" or length > self.length", "")),
        "truncate ignores a larger length": changed(
            CACHE,
            (" or length > self.length", ""),
            ("        self.length = length", "        self.length = min(length, self.length)"),
        ),
    },
)

KEEPS = """
def truncate(scores, top_k, top_p):
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=-1)
    count = top_k if top_k else scores.shape[-1]
    by_rank = np.broadcast_to(np.arange(scores.shape[-1]) < count, scores.shape)
    mass = softmax(np.where(by_rank, ranked, -np.inf))
    before = np.cumsum(mass, axis=-1) - mass
    by_rank = by_rank & ((before < top_p) | (top_p == 1))
    keeps = np.empty(scores.shape, bool)
    np.put_along_axis(keeps, order, by_rank, axis=-1)
    return np.where(keeps, scores, -np.inf)
"""

EXERCISES[3] = Solutions(
    right={
        "put instead of the inverse permutation": KEEPS,
        "row by row": """
def truncate(scores, top_k, top_p):
    keeps = np.zeros(scores.shape, dtype=bool)
    for row, kept in zip(scores, keeps):
        tokens = sorted(range(len(row)), key=lambda token: (-row[token], token))
        tokens = tokens[: top_k or None]
        p, reached = softmax(row[None, tokens])[0], 0.0
        for token, probability in zip(tokens, p):
            if top_p == 1 or reached < top_p:
                kept[token] = True
            reached += probability
    return np.where(keeps, scores, -np.inf)
""",
        "the rank from all pairs": """
def truncate(scores, top_k, top_p):
    one, other = scores[:, :, None], scores[:, None, :]
    tokens = np.arange(scores.shape[1])
    above = (other > one) | ((other == one) & (tokens[None, :] < tokens[:, None]))
    keeps = above.sum(axis=-1) < top_k if top_k else np.ones(scores.shape, bool)
    if top_p < 1:
        p = softmax(np.where(keeps, scores, -np.inf))
        keeps &= (above * p[:, None, :]).sum(axis=-1) < top_p
    return np.where(keeps, scores, -np.inf)
""",
    },
    wrong={
        "top-p of the probabilities before top-k": changed(
            KEEPS, ("np.where(by_rank, ranked, -np.inf)", "ranked")
        ),
        "top-p first, then top-k of what remains, renormalized too late": """
def truncate(scores, top_k, top_p):
    order = np.argsort(-scores, axis=-1, kind="stable")
    mass = softmax(np.take_along_axis(scores, order, axis=-1))
    by_rank = np.cumsum(mass, axis=-1) - mass < top_p
    if top_k:
        by_rank[:, top_k :] = False
    keeps = np.take_along_axis(by_rank, np.argsort(order, axis=-1), axis=-1)
    return np.where(keeps, scores, -np.inf)
""",
        "the token that reaches p is excluded": changed(
            KEEPS, ("(before < top_p)", "(before + mass < top_p) | (np.arange(mass.shape[1]) < 1)")
        ),
        "the most likely token is excluded if it reaches p": changed(
            KEEPS, ("before < top_p", "before + mass <= top_p")
        ),
        "the token after the one that reaches p is kept": changed(
            KEEPS, ("before < top_p", "before <= top_p")
        ),
        "of equal scores the highest token first": changed(
            KEEPS,
            (
                'np.argsort(-scores, axis=-1, kind="stable")',
                'np.argsort(scores, axis=-1, kind="stable")[:, ::-1]',
            ),
        ),
        "all tokens as likely as the k-th": """
def truncate(scores, top_k, top_p):
    ranked = -np.sort(-scores, axis=-1)
    limit = ranked[:, [min(top_k or ranked.shape[1], ranked.shape[1]) - 1]]
    p = softmax(np.where(scores >= limit, scores, -np.inf))
    order = np.argsort(-p, axis=-1, kind="stable")
    mass = np.take_along_axis(p, order, axis=-1)
    kept = np.empty(scores.shape, bool)
    np.put_along_axis(kept, order, np.cumsum(mass, axis=-1) - mass < top_p, axis=-1)
    return np.where(kept & (scores >= limit), scores, -np.inf)
""",
        "the least likely tokens": changed(KEEPS, ("np.argsort(-scores", "np.argsort(scores")),
        "the answer by rank": changed(KEEPS, ("np.where(keeps", "np.where(by_rank")),
        "the order used as its inverse": changed(
            KEEPS, ("np.where(keeps", "np.where(np.take_along_axis(by_rank, order, axis=-1)")
        ),
        "the order of the first row": changed(
            KEEPS,
            (
                'np.argsort(-scores, axis=-1, kind="stable")',
                'np.argsort(-scores[:1], axis=-1, kind="stable").repeat(len(scores), axis=0)',
            ),
        ),
        "top-k that would exclude a single token is ignored": changed(
            KEEPS, ("if top_k else", "if 0 < top_k < scores.shape[-1] - 1 else")
        ),
        "the scores of the kept tokens become logarithms of probabilities": changed(
            KEEPS,
            (
                "np.where(keeps, scores, -np.inf)",
                "np.where(keeps, np.log(softmax(scores)), -np.inf)",
            ),
        ),
        "the scores are changed": changed(
            KEEPS,
            (
                "return np.where(keeps, scores, -np.inf)",
                "scores[~keeps] = -np.inf\n    return scores",
            ),
        ),
        "the scores in the order of their ranks": changed(
            KEEPS, ("np.where(keeps, scores, -np.inf)", "np.where(by_rank, ranked, -np.inf)")
        ),
        "one token too many": changed(KEEPS, ("< count", "<= count")),
        "top-k only": changed(KEEPS, ("by_rank = by_rank & (", "by_rank = by_rank | (")),
    },
)
