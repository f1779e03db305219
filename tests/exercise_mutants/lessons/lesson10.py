"""Solutions of lesson 10: robust speed-ups, drafts by lookup, the Kaplan-Meier estimator."""

from tests.exercise_mutants import Solutions, changed

EXERCISES = {}

SPEEDUP = """
class Speed:
    def speedup_over(self, other):
        ratios = []
        for mine, theirs in zip(self.rates, other.rates):
            ratios += [a / b for a, b in zip(mine, theirs) if a > 0 and b > 0]
        return statistics.median(ratios) if ratios else float("nan")
"""

EXERCISES[1] = Solutions(
    right={
        "lists": SPEEDUP,
        "arrays": """
class Speed:
    def speedup_over(self, other):
        mine, theirs = np.ravel(self.rates), np.ravel(other.rates)
        used = (mine > 0) & (theirs > 0)
        if not used.any():
            return np.nan
        return float(np.median(mine[used] / theirs[used]))
""",
    },
    wrong={
        "the ratio of the means": """
class Speed:
    def speedup_over(self, other):
        return np.mean(self.rates) / np.mean(other.rates)
""",
        "the ratio of the medians": """
class Speed:
    def speedup_over(self, other):
        return np.median(self.rates) / np.median(other.rates)
""",
        "the mean of the ratios": changed(SPEEDUP, ("statistics.median", "statistics.fmean")),
        "the geometric mean of the ratios": changed(
            SPEEDUP, ("statistics.median", "statistics.geometric_mean")
        ),
        "the largest ratio": changed(SPEEDUP, ("statistics.median", "max")),
        "the other way round": changed(SPEEDUP, ("a / b", "b / a")),
        "only the first repeat": changed(
            SPEEDUP, ("zip(self.rates, other.rates)", "zip(self.rates[:1], other.rates)")
        ),
        "the rates are sorted before they are paired": """
class Speed:
    def speedup_over(self, other):
        mine, theirs = np.ravel(self.rates), np.ravel(other.rates)
        used = (mine > 0) & (theirs > 0)
        if not used.any():
            return np.nan
        return float(np.median(np.sort(mine[used]) / np.sort(theirs[used])))
""",
        "the median of the medians of the repeats": """
class Speed:
    def speedup_over(self, other):
        medians = []
        for mine, theirs in zip(self.rates, other.rates):
            ratios = [a / b for a, b in zip(mine, theirs) if a > 0 and b > 0]
            medians += [statistics.median(ratios)] if ratios else []
        return statistics.median(medians) if medians else float("nan")
""",
        "the lower of two middle ratios": changed(
            SPEEDUP, ("statistics.median", "statistics.median_low")
        ),
        "texts without a speed count": changed(SPEEDUP, ("if a > 0 and b > 0", "if b > 0")),
        "there is always a ratio": changed(SPEEDUP, (' if ratios else float("nan")', "")),
    },
)

LOOKUP = """
class NgramDrafter:
    def draft(self, depth, rule):
        text = self._text
        for length in range(min(self.max_length, len(text) - 1), self.min_length - 1, -1):
            place = text.rfind(text[-length:], 0, -1)
            if place >= 0:
                follows = [ord(character) for character in text[place + length :]]
                count = min(depth, 2 * length)
                return [follows[i % len(follows)] for i in range(count)], None
        return [], None
"""

EXERCISES[2] = Solutions(
    right={
        "every length, the longest first": LOOKUP,
        "the draft becomes part of the text": """
class NgramDrafter:
    def draft(self, depth, rule):
        tokens = list(map(ord, self._text))
        size = len(tokens)
        for length in range(self.max_length, self.min_length - 1, -1):
            for start in range(size - length - 1, -1, -1):
                if tokens[start : start + length] == tokens[size - length :]:
                    for i in range(min(depth, 2 * length)):
                        tokens.append(tokens[start + length + i])
                    return tokens[size:], None
        return [], None
""",
    },
    wrong={
        "the earliest occurrence": changed(LOOKUP, ("text.rfind", "text.find")),
        "the shortest suffix": changed(
            LOOKUP,
            (
                "range(min(self.max_length, len(text) - 1), self.min_length - 1, -1)",
                "range(self.min_length, min(self.max_length, len(text) - 1) + 1)",
            ),
        ),
        "shorter repetitions than allowed": changed(LOOKUP, ("self.min_length - 1, -1", "0, -1")),
        "longer repetitions than allowed": changed(
            LOOKUP, ("min(self.max_length, len(text) - 1)", "len(text) - 1")
        ),
        "the draft ends with the text": changed(
            LOOKUP, ("[follows[i % len(follows)] for i in range(count)]", "follows[:count]")
        ),
        "the period is the length of the suffix": changed(
            LOOKUP, ("i % len(follows)", "i % min(len(follows), length)")
        ),
        "the draft is as long as requested": changed(LOOKUP, ("min(depth, 2 * length)", "depth")),
        "the requested depth is ignored": changed(
            LOOKUP, ("min(depth, 2 * length)", "min(self.max_depth, 2 * length)")
        ),
        "the draft begins with the suffix": changed(
            LOOKUP, ("text[place + length :]", "text[place:]")
        ),
        "the first token after the repetition is left out": changed(
            LOOKUP, ("text[place + length :]]", "(text[place + length + 1 :] or text[-1:])]")
        ),
    },
)

SURVIVAL = """
def survival(ended, censored, max_depth, guess):
    shares, share, factor = [], 1.0, guess
    for depth in range(max_depth):
        could = sum(ended[depth:]) - censored[depth]
        did = sum(ended[depth + 1 :])
        factor = (did + GUESS_WEIGHT * factor) / (could + GUESS_WEIGHT)
        share *= factor
        shares.append(share)
    return shares
"""

EXERCISES[3] = Solutions(
    right={
        "sums at each depth": SURVIVAL,
        "cumulative sums and products": """
def survival(ended, censored, max_depth, guess):
    reached = np.cumsum(np.asarray(ended, float)[::-1])[::-1].tolist() + [0.0]
    factors = [guess]
    for depth in range(max_depth):
        total = reached[depth] - censored[depth] + GUESS_WEIGHT
        factors.append((reached[depth + 1] + factors[-1] * GUESS_WEIGHT) / total)
    return list(itertools.accumulate(factors[1:], lambda a, b: a * b))
""",
    },
    wrong={
        "rounds that asked for no more drafts count as rejected": changed(
            SURVIVAL, (" - censored[depth]", "")
        ),
        "no guess": changed(
            SURVIVAL,
            (
                "(did + GUESS_WEIGHT * factor) / (could + GUESS_WEIGHT)",
                "did / could if could else 0.0",
            ),
        ),
        "the guess counts as one round": changed(
            SURVIVAL,
            (
                "(did + GUESS_WEIGHT * factor) / (could + GUESS_WEIGHT)",
                "(did + factor) / (could + 1)",
            ),
        ),
        "every depth starts from the same guess": changed(
            SURVIVAL, ("GUESS_WEIGHT * factor", "GUESS_WEIGHT * guess")
        ),
        "the factors are not multiplied": changed(SURVIVAL, ("share *= factor", "share = factor")),
        "depth 0 is included": changed(
            SURVIVAL, ("shares, share, factor = []", "shares, share, factor = [1.0]")
        ),
        "the censoring of the next depth": changed(
            SURVIVAL, ("censored[depth]", "censored[depth + 1]")
        ),
        "the guess is the share so far": changed(
            SURVIVAL, ("GUESS_WEIGHT * factor", "GUESS_WEIGHT * share")
        ),
    },
)
