"""Solutions of lesson 11: the divergence, the share of repetitions, and what was recovered."""

from tests.exercise_mutants import Solutions, changed

DIVERGENCE = """
def kl_divergence(expected, logits):
    log_p = expected - expected.max(axis=1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    log_q = logits - logits.max(axis=1, keepdims=True)
    log_q = log_q - np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "two steps": DIVERGENCE,
        "cross entropy less entropy, row by row": """
def kl_divergence(expected, logits):
    def log_softmax(row):
        row = row.astype(np.float64) - row.max()
        return row - np.logaddexp.reduce(row)

    found = []
    for p, q in zip(expected, logits):
        log_p, log_q = log_softmax(p), log_softmax(q)
        found.append(np.dot(np.exp(log_p), log_p) - np.dot(np.exp(log_p), log_q))
    return np.array(found)
""",
        "by the difference of the logits": """
def kl_divergence(expected, logits):
    def log_sum(a):
        top = a.max(axis=1)
        return top + np.log(np.exp(a - top[:, None]).sum(axis=1))

    p = np.exp(expected - log_sum(expected)[:, None])
    top = expected.max(axis=1, keepdims=True) - logits.max(axis=1, keepdims=True)
    mean = (p * (expected - logits - top)).sum(axis=1) + top[:, 0] * p.sum(axis=1)
    return mean - log_sum(expected) + log_sum(logits)
""",
    },
    wrong={
        "the other direction": changed(
            DIVERGENCE, ("np.exp(log_p) * (log_p - log_q)", "np.exp(log_q) * (log_q - log_p)")
        ),
        "both directions": changed(
            DIVERGENCE, ("np.exp(log_p) *", "(np.exp(log_p) - np.exp(log_q)) *")
        ),
        "the cross entropy": changed(DIVERGENCE, ("(log_p - log_q)", "-log_q")),
        "the sign": changed(DIVERGENCE, ("(log_p - log_q)", "(log_q - log_p)")),
        "the mean over the vocabulary": changed(
            DIVERGENCE, ("(log_p - log_q)).sum(axis=1)", "(log_p - log_q)).mean(axis=1)")
        ),
        "one number for all rows": changed(
            DIVERGENCE, ("(log_p - log_q)).sum(axis=1)", "(log_p - log_q)).sum()")
        ),
        "in bits": changed(DIVERGENCE, ("(log_p - log_q)", "np.log2(np.exp(log_p - log_q))")),
        "logits taken for logarithms of probabilities": """
def kl_divergence(expected, logits):
    return (np.exp(expected) * (expected - logits)).sum(axis=1)
""",
        "probabilities that become zero": """
def kl_divergence(expected, logits):
    def softmax(a):
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    with np.errstate(all="ignore"):
        p, q = softmax(expected), softmax(logits)
        return (p * np.log(p / q)).sum(axis=1)
""",
        "a small number is added to the probabilities": """
def kl_divergence(expected, logits):
    def softmax(a):
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    p, q = softmax(expected) + 1e-30, softmax(logits) + 1e-30
    return (p * np.log(p / q)).sum(axis=1)
""",
        "probabilities have a lower limit": """
def kl_divergence(expected, logits):
    def softmax(a):
        weights = np.exp(a - a.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    p, q = softmax(expected), softmax(logits)
    return (p * np.log(np.maximum(p, 1e-30) / np.maximum(q, 1e-30))).sum(axis=1)
""",
        "the maximum is not subtracted": """
def kl_divergence(expected, logits):
    with np.errstate(all="ignore"):
        log_p = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
        log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
""",
        "the logits are changed": """
def kl_divergence(expected, logits):
    for a in (expected, logits):
        a -= a.max(axis=1, keepdims=True)
        a -= np.log(np.exp(a).sum(axis=1, keepdims=True))
    return (np.exp(expected) * (expected - logits)).sum(axis=1)
""",
    },
)

REPETITION = """
def repetition(texts, prompts):
    repeated = total = 0
    for text, prompt in zip(texts, prompts):
        seen = set()
        new = list(text)[len(prompt):]
        for start in range(len(new) - NGRAM + 1):
            gram = tuple(new[start : start + NGRAM])
            repeated += gram in seen
            total += 1
            seen.add(gram)
    return repeated / total if total else 0.0
"""

EXERCISES[2] = Solutions(
    right={
        "a set of what was seen": REPETITION,
        "counted at once": """
from collections import Counter

def repetition(texts, prompts):
    counts = Counter()
    for number, (text, prompt) in enumerate(zip(texts, prompts)):
        new = text[len(prompt):]
        shifted = [new[i:] for i in range(NGRAM)]
        counts.update((number, *gram) for gram in zip(*shifted))
    total = sum(counts.values())
    return (total - len(counts)) / max(total, 1)
""",
        "one minus the share of different ones": """
def repetition(texts, prompts):
    total = different = 0
    for text, prompt in zip(texts, prompts):
        new = np.array(text[len(prompt):])
        if len(new) >= NGRAM:
            grams = np.lib.stride_tricks.sliding_window_view(new, NGRAM)
            total += len(grams)
            different += len(np.unique(grams, axis=0))
    return 1 - different / total if total else 0.0
""",
    },
    wrong={
        "the prompt counts": changed(REPETITION, ("list(text)[len(prompt):]", "list(text)")),
        "the last n-gram is missing": changed(REPETITION, ("- NGRAM + 1", "- NGRAM")),
        "n-grams of three tokens": changed(
            REPETITION, ("- NGRAM + 1", "- 2"), ("start + NGRAM", "start + 3")
        ),
        "the order does not matter": changed(
            REPETITION,
            ("tuple(new[start : start + NGRAM])", "frozenset(new[start : start + NGRAM])"),
        ),
        "digits instead of tokens": changed(
            REPETITION,
            ("tuple(new[start : start + NGRAM])", "''.join(map(str, new[start : start + NGRAM]))"),
        ),
        "searched in a string": """
def repetition(texts, prompts):
    repeated = total = 0
    for text, prompt in zip(texts, prompts):
        new = [str(token) for token in list(text)[len(prompt):]]
        for end in range(NGRAM, len(new) + 1):
            repeated += " ".join(new[end - NGRAM : end]) in " ".join(new[: end - 1])
            total += 1
    return repeated / total if total else 0.0
""",
        "tokens are bytes": changed(
            REPETITION,
            (
                "tuple(new[start : start + NGRAM])",
                "bytes(token % 256 for token in new[start : start + NGRAM])",
            ),
        ),
        "over all texts": changed(
            REPETITION,
            ("        seen = set()\n", ""),
            ("    repeated = total = 0\n", "    repeated = total = 0\n    seen = set()\n"),
        ),
        "the first occurrence counts, too": """
def repetition(texts, prompts):
    repeated = total = 0
    for text, prompt in zip(texts, prompts):
        new = list(text)[len(prompt):]
        grams = [tuple(new[i : i + NGRAM]) for i in range(len(new) - NGRAM + 1)]
        repeated += sum(grams.count(gram) > 1 for gram in grams)
        total += len(grams)
    return repeated / total if total else 0.0
""",
        "the mean of the texts": """
def repetition(texts, prompts):
    shares = [0.0]
    for text, prompt in zip(texts, prompts):
        new = list(text)[len(prompt):]
        grams = [tuple(new[i : i + NGRAM]) for i in range(len(new) - NGRAM + 1)]
        if grams:
            shares.append(1 - len(set(grams)) / len(grams))
    return sum(shares) / max(1, len(shares) - 1)
""",
        "a text that is too short divides by zero": changed(
            REPETITION, ("repeated / total if total else 0.0", "repeated / total")
        ),
    },
)

RECOVERED = """
def recovered(standard, rounded, better, measure, kind):
    lost = rounded[measure][kind] - standard[measure][kind]
    still = better[measure][kind] - standard[measure][kind]
    return 100.0 if lost == 0 else 100.0 * (1.0 - still / lost)
"""

EXERCISES[3] = Solutions(
    right={
        "one minus what is still lost": RECOVERED,
        "if rounding loses nothing, or less than nothing": changed(
            RECOVERED, ("lost == 0", "lost <= 0")
        ),
        "what was won": """
def recovered(standard, rounded, better, measure, kind):
    before, after, goal = (c[measure][kind] for c in (rounded, better, standard))
    if before == goal:
        return 100
    return (before - after) / (before - goal) * 100
""",
    },
    wrong={
        "the share that is still lost": changed(
            RECOVERED, ("(1.0 - still / lost)", "still / lost")
        ),
        "a fraction": changed(RECOVERED, ("100.0 * (1.0", "(1.0")),
        "whole percent": changed(
            RECOVERED, ("100.0 * (1.0 - still / lost)", "round(100.0 * (1.0 - still / lost))")
        ),
        "relative to the whole": changed(
            RECOVERED, ("1.0 - still / lost", "(lost - still) / rounded[measure][kind]")
        ),
        "relative to the better one": changed(
            RECOVERED, ("1.0 - still / lost", "(lost - still) / max(still, 1e-9)")
        ),
        "always nats": changed(
            RECOVERED,
            (
                "rounded[measure][kind] - standard[measure]",
                "rounded['nats'][kind] - standard['nats']",
            ),
            (
                "better[measure][kind] - standard[measure]",
                "better['nats'][kind] - standard['nats']",
            ),
        ),
        "always code": """
def recovered(standard, rounded, better, measure, kind):
    before, after, goal = (c[measure]["code"] for c in (rounded, better, standard))
    return 100.0 if before == goal else 100.0 * (before - after) / (before - goal)
""",
        "between 0 and 100": changed(
            RECOVERED,
            ("100.0 * (1.0 - still / lost)", "min(100.0, max(0.0, 100.0 * (1.0 - still / lost)))"),
        ),
        "nothing lost divides by zero": changed(RECOVERED, ("100.0 if lost == 0 else ", "")),
        "nothing lost is nothing recovered": changed(
            RECOVERED, ("100.0 if lost == 0", "0.0 if lost == 0")
        ),
    },
)
