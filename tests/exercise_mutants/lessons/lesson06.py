"""Solutions of lesson 6: the matching rule, the token rule and the block rule."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

MATCHING = """
def matching_rule(choose, drafts):
    accepted, token = 0, choose(0)
    while accepted < len(drafts) and token == drafts[accepted]:
        accepted += 1
        token = choose(accepted)
    return accepted, token
"""

EXERCISES[1] = Solutions(
    right={
        "a loop without an end of its own": MATCHING,
        "recursive": """
def matching_rule(choose, drafts):
    def after(accepted):
        token = choose(accepted)
        if list(drafts[accepted : accepted + 1]) == [token]:
            return after(accepted + 1)
        return accepted, token

    return after(0)
""",
        "the choices as a lazy sequence": """
def matching_rule(choose, drafts):
    choices = map(choose, range(len(drafts) + 1))
    return next(
        (j, choice)
        for j, choice in enumerate(choices)
        if j == len(drafts) or choice != drafts[j]
    )
""",
    },
    wrong={
        "all choices in advance": """
def matching_rule(choose, drafts):
    choices = [choose(j) for j in range(len(drafts) + 1)]
    accepted = 0
    while accepted < len(drafts) and choices[accepted] == drafts[accepted]:
        accepted += 1
    return accepted, choices[accepted]
""",
        "one choice too many": changed(
            MATCHING, ("    return accepted, token", "    return accepted, choose(accepted)")
        ),
        "the last choice is asked for first": changed(
            MATCHING,
            ("    accepted, token = 0", "    last = choose(len(drafts))\n    accepted, token = 0"),
            (
                "        token = choose(accepted)",
                "        token = choose(accepted) if accepted < len(drafts) else last",
            ),
        ),
        "the draft that differs is emitted": """
def matching_rule(choose, drafts):
    for j, draft in enumerate(drafts):
        if choose(j) != draft:
            return j, draft
    return len(drafts), choose(len(drafts))
""",
        "the draft that differs counts as accepted": """
def matching_rule(choose, drafts):
    for j, draft in enumerate(drafts):
        choice = choose(j)
        if choice != draft:
            return j + 1, choice
    return len(drafts), choose(len(drafts))
""",
        "compared with the choice after the draft": """
def matching_rule(choose, drafts):
    token = choose(0)
    for j, draft in enumerate(drafts):
        choice = choose(j + 1)
        if choice != draft:
            return j, token
        token = choice
    return len(drafts), token
""",
        "all drafts that equal their choice, also after a difference": """
def matching_rule(choose, drafts):
    choices = [choose(j) for j in range(len(drafts) + 1)]
    accepted = sum(choice == draft for choice, draft in zip(choices, drafts))
    return accepted, choices[accepted]
""",
        "no token after the last draft": """
def matching_rule(choose, drafts):
    for j, draft in enumerate(drafts):
        choice = choose(j)
        if choice != draft:
            return j, choice
    return len(drafts) - 1, drafts[-1]
""",
        "the token after the last draft from the row before": changed(
            MATCHING, ("= choose(accepted)", "= choose(min(accepted, len(drafts) - 1))")
        ),
        "the last draft is not compared": changed(
            MATCHING, ("accepted < len(drafts) and", "accepted < len(drafts) - 1 and")
        ),
    },
)

TOKEN = """
def token_rule(p, q, drafts, rng):
    if q is None:
        q = one_hot(drafts, p.shape[1])
    accepted = 0
    for draft in drafts:
        if not rng.happens(probability_ratio(p[accepted], q[accepted], draft)):
            return accepted, rng.choose(residual_distribution(p[accepted], q[accepted]))
        accepted += 1
    return accepted, rng.choose(p[accepted])
"""

RATIO = "probability_ratio(p[accepted], q[accepted], draft)"
REST = "residual_distribution(p[accepted], q[accepted])"
BLOCK_RATIO = "min(1.0, weights[-1] * probability_ratio(p[i], q[i], draft))"

OWN_FORMULAS = """
def token_rule(p, q, drafts, rng):
    if q is None:
        q = one_hot(drafts, p.shape[1])
    for j, draft in enumerate(drafts):
        if q[j, draft] == 0:
            raise ValueError(f"draft {j} was not sampled from q")
        if rng.happens(min(1, p[j, draft] / q[j, draft])):
            continue
        missing = (p[j] - q[j]).clip(0)
        return j, rng.choose(missing / missing.sum() if missing.any() else p[j])
    return len(drafts), rng.choose(p[-1])
"""

EXERCISES[2] = Solutions(
    right={
        "a counter": TOKEN,
        "formulas of its own": OWN_FORMULAS,
        "the residual is not divided by its sum, because choose accepts any sum": """
def token_rule(p, q, drafts, rng):
    q = one_hot(drafts, p.shape[1]) if q is None else q
    for j, draft in enumerate(drafts):
        if not rng.happens(probability_ratio(p[j], q[j], draft)):
            return j, rng.choose(np.maximum(p[j] - q[j], 0))
    return len(drafts), rng.choose(p[len(drafts)])
""",
        "every coin first, then the first that failed": """
def token_rule(p, q, drafts, rng):
    q = one_hot(drafts, p.shape[1]) if q is None else q
    stands = [rng.happens(probability_ratio(*rows)) for rows in zip(p, q, drafts)]
    if all(stands):
        return len(drafts), rng.choose(p[len(drafts)])
    j = stands.index(False)
    return j, rng.choose(residual_distribution(p[j], q[j]))
""",
        "recursive, without one_hot": """
def token_rule(p, q, drafts, rng):
    if not len(drafts):
        return 0, rng.choose(p[0])
    first = np.eye(p.shape[1])[drafts[0]] if q is None else q[0]
    if rng.happens(probability_ratio(p[0], first, drafts[0])):
        accepted, token = token_rule(p[1:], None if q is None else q[1:], drafts[1:], rng)
        return accepted + 1, token
    return 0, rng.choose(residual_distribution(p[0], first))
""",
    },
    wrong={
        "a rejected draft is replaced by a sample from p": changed(TOKEN, (REST, "p[accepted]")),
        "p without the rejected token": changed(
            TOKEN, (REST, "residual_distribution(p[accepted], np.eye(p.shape[1])[draft])")
        ),
        "the residual keeps the negative differences": changed(
            OWN_FORMULAS, ("(p[j] - q[j]).clip(0)", "abs(p[j] - q[j])")
        ),
        "0 / 0 if rounding leaves no residual": changed(
            OWN_FORMULAS, (" if missing.any() else p[j]", "")
        ),
        "accepted with probability p": changed(TOKEN, (RATIO, "p[accepted, draft]")),
        "the ratio upside down": changed(
            TOKEN, ("(p[accepted], q[accepted], draft)", "(q[accepted], p[accepted], draft)")
        ),
        "no coin: accepted if p is at least q": changed(
            TOKEN,
            (
                "rng.happens(probability_ratio(p[accepted], q[accepted], draft))",
                "p[accepted, draft] >= q[accepted, draft]",
            ),
        ),
        "the token after all drafts from the row before": changed(
            TOKEN, ("rng.choose(p[accepted])\n", "rng.choose(p[accepted - 1])\n")
        ),
        "no token after all drafts": changed(
            TOKEN,
            (
                "    return accepted, rng.choose(p[accepted])\n",
                "    return accepted - 1, drafts[-1]\n",
            ),
        ),
        "the rejected draft counts as accepted": changed(
            TOKEN, ("            return accepted, rng", "            return accepted + 1, rng")
        ),
        "the replacement from the row after the draft": changed(
            TOKEN, (REST, "residual_distribution(p[accepted + 1], q[accepted])")
        ),
        "the loop goes on after a rejection": """
def token_rule(p, q, drafts, rng):
    q = one_hot(drafts, p.shape[1]) if q is None else q
    stands = [rng.happens(probability_ratio(*rows)) for rows in zip(p, q, drafts)]
    accepted = sum(stands)
    if accepted == len(drafts):
        return accepted, rng.choose(p[accepted])
    return accepted, rng.choose(residual_distribution(p[accepted], q[accepted]))
""",
        "one-hot drafts are always accepted": changed(
            TOKEN,
            ("q = one_hot(drafts, p.shape[1])", "return len(drafts), rng.choose(p[len(drafts)])"),
        ),
        "every draft counts as one-hot": changed(TOKEN, ("if q is None:", "if True:")),
        "a draft with probability 0 is just accepted": changed(
            OWN_FORMULAS, ('raise ValueError(f"draft {j} was not sampled from q")', "continue")
        ),
    },
)

BLOCK = """
def block_rule(p, q, drafts, rng):
    if q is None:
        q = one_hot(drafts, p.shape[1])
    weights = [1.0]
    for i, draft in enumerate(drafts):
        weights.append(min(1.0, weights[-1] * probability_ratio(p[i], q[i], draft)))
    coins = [True]
    for i in range(1, len(weights)):
        h = weights[i] if i == len(drafts) else block_acceptance(p[i], q[i], weights[i])
        coins.append(rng.happens(h))
    a = max(i for i, coin in enumerate(coins) if coin)
    if a == len(drafts):
        return a, rng.choose(p[a])
    return a, rng.choose(residual_distribution(p[a], q[a], weights[a]))
"""

RESIDUAL = "residual_distribution(p[a], q[a], weights[a])"

EXERCISES[3] = Solutions(
    right={
        "weights first, then coins": BLOCK,
        "from the longest block down, until a coin succeeds": """
def block_rule(p, q, drafts, rng):
    q = one_hot(drafts, p.shape[1]) if q is None else q
    weights = [1.0]
    for row, draft in enumerate(drafts):
        weights.append(min(1.0, weights[-1] * probability_ratio(p[row], q[row], draft)))
    if rng.happens(weights[-1]):
        return len(drafts), rng.choose(p[len(drafts)])
    for i in range(len(drafts) - 1, -1, -1):
        if i == 0 or rng.happens(block_acceptance(p[i], q[i], weights[i])):
            return i, rng.choose(residual_distribution(p[i], q[i], weights[i]))
""",
        "formulas of its own": """
def block_rule(p, q, drafts, rng):
    q = one_hot(drafts, p.shape[1]) if q is None else q
    best, missing, weight = 0, None, 1.0
    for i in range(len(drafts)):
        rest = (weight * p[i] - q[i]).clip(0)
        total = rest.sum()
        bottom = total + (1 - weight)
        if i == 0 or rng.happens(total / bottom if bottom > 0 else 1.0):
            best, missing = i, rest / total if total > 0 else p[i]
        if q[i, drafts[i]] == 0:
            raise ValueError("not sampled from q")
        weight = min(1.0, weight * p[i, drafts[i]] / q[i, drafts[i]])
    if rng.happens(weight):
        return len(drafts), rng.choose(p[len(drafts)])
    return best, rng.choose(missing)
""",
    },
    wrong={
        "the loop ends at the first coin that fails": changed(
            BLOCK,
            (
                "        coins.append(rng.happens(h))",
                "        if not rng.happens(h):\n            break\n        coins.append(True)",
            ),
        ),
        "the shortest block whose coin succeeds": changed(
            BLOCK,
            (
                "max(i for i, coin in enumerate(coins) if coin)",
                "min((i for i, coin in enumerate(coins) if coin and i), default=0)",
            ),
        ),
        "the number of coins that succeed": changed(
            BLOCK, ("max(i for i, coin in enumerate(coins) if coin)", "sum(coins) - 1")
        ),
        "w instead of h": changed(
            BLOCK,
            (
                "weights[i] if i == len(drafts) else block_acceptance(p[i], q[i], weights[i])",
                "weights[i]",
            ),
        ),
        "h of the row before": changed(
            BLOCK,
            (
                "block_acceptance(p[i], q[i], weights[i])",
                "block_acceptance(p[i - 1], q[i - 1], weights[i])",
            ),
        ),
        "h with the weight before": changed(
            BLOCK, ("q[i], weights[i])\n        coins", "q[i], weights[i - 1])\n        coins")
        ),
        "the last block like the others": changed(
            BLOCK,
            (
                "weights[i] if i == len(drafts) else block_acceptance(p[i], q[i], weights[i])",
                "block_acceptance(p[i], q[min(i, len(q) - 1)], weights[i])",
            ),
        ),
        "the weight may be more than 1": changed(
            BLOCK, ("min(1.0, weights[-1]", "max(0.0, weights[-1]")
        ),
        "the minimum only at the end": changed(
            BLOCK,
            (BLOCK_RATIO, "weights[-1] * probability_ratio(p[i], q[i], draft)"),
            (
                "    coins = [True]",
                "    weights = [min(1.0, w) for w in weights]\n    coins = [True]",
            ),
        ),
        "the weight forgets the drafts before": changed(
            BLOCK, ("min(1.0, weights[-1] * prob", "min(1.0, prob")
        ),
        "the residual without a weight": changed(
            BLOCK, (RESIDUAL, "residual_distribution(p[a], q[a])")
        ),
        "the residual with the weight of the last block": changed(
            BLOCK, (RESIDUAL, "residual_distribution(p[a], q[a], weights[-1])")
        ),
        "a sample from p after the block": changed(BLOCK, (RESIDUAL, "p[a]")),
        "the token after all drafts from the row before": changed(
            BLOCK, ("rng.choose(p[a])\n", "rng.choose(p[a - 1])\n")
        ),
        "the token rule": TOKEN.replace("token_rule", "block_rule"),
        "every draft counts as one-hot": changed(BLOCK, ("if q is None:", "if True:")),
    },
)
