"""Solutions of lesson 12: the roofline, the break-even acceptance, and percentiles."""

from tests.exercise_mutants import Solutions, changed

ROOFLINE = """
class Roofline:
    @property
    def balanced_rows(self):
        return self.precision.bits * self.peak / (16 * self.bandwidth)

    def _matrix(self, weights, bits, rows):
        if rows == 0:
            return 0.0
        return max(weights * bits / 8 / self.bandwidth, 2 * weights * rows / self.peak)

    def _attention(self, layers, batch, rows, context):
        numbers = 2 * layers * self.model.kv_size * context * batch
        reading = numbers * self.cache_bits / 8 / self.bandwidth
        operations = 4 * layers * self.model.query_size * context * batch * rows
        return max(reading, operations / self.float_peak)
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "by the formulas": ROOFLINE,
        "seconds of a weight": """
class Roofline:
    @property
    def balanced_rows(self):
        seconds_read = self.precision.bits / 8 / self.bandwidth
        seconds_of_a_row = 2 / self.peak
        return seconds_read / seconds_of_a_row

    def _matrix(self, weights, bits, rows):
        reading, multiplying = bits / 8 / self.bandwidth, 2 * rows / self.peak
        return weights * (reading if reading > multiplying else multiplying) * (rows > 0)

    def _attention(self, layers, batch, rows, context):
        one = cache_bytes_per_token(self.model, self.cache_bits) / self.model.num_hidden_layers
        times = one / self.bandwidth, 4 * self.model.query_size * rows / self.float_peak
        return sorted(times)[-1] * layers * batch * context
""",
    },
    wrong={
        "reading and multiplying one after the other": changed(
            ROOFLINE,
            (
                "max(weights * bits / 8 / self.bandwidth, 2",
                "(weights * bits / 8 / self.bandwidth + 2",
            ),
        ),
        "one operation per weight": changed(ROOFLINE, ("2 * weights * rows", "weights * rows")),
        "bits taken for bytes": changed(ROOFLINE, ("weights * bits / 8", "weights * bits")),
        "every matrix in the precision of the layers": changed(
            ROOFLINE, ("weights * bits / 8", "weights * self.precision.bits / 8")
        ),
        "the weights are read for each row": changed(
            ROOFLINE,
            ("weights * bits / 8 / self.bandwidth", "weights * rows * bits / 8 / self.bandwidth"),
        ),
        "no row costs a reading": changed(ROOFLINE, ("rows == 0", "rows < 0")),
        "the cache is read for each row": changed(
            ROOFLINE,
            ("self.model.kv_size * context * batch", "self.model.kv_size * context * batch * rows"),
        ),
        "the cache of one request": changed(
            ROOFLINE, ("self.model.kv_size * context * batch", "self.model.kv_size * context")
        ),
        "a cache as wide as the queries": changed(
            ROOFLINE, ("layers * self.model.kv_size", "layers * self.model.query_size")
        ),
        "operations as wide as the keys": changed(
            ROOFLINE, ("layers * self.model.query_size", "layers * self.model.kv_size")
        ),
        "operations as wide as the hidden states": changed(
            ROOFLINE, ("layers * self.model.query_size", "layers * self.model.hidden_size")
        ),
        "the drafter reads the cache of all layers": changed(
            ROOFLINE,
            ("numbers = 2 * layers * self.model.kv_size", "numbers = 1"),
            (
                "numbers * self.cache_bits / 8",
                "numbers * cache_bytes_per_token(self.model, self.cache_bits)",
            ),
        ),
        "the drafter attends in all layers": changed(
            ROOFLINE, ("4 * layers", "4 * self.model.num_hidden_layers")
        ),
        "keys without values": changed(
            ROOFLINE, ("2 * layers * self.model.kv", "layers * self.model.kv")
        ),
        "a cache of 16 bits": changed(ROOFLINE, ("self.cache_bits", "16")),
        "a cache of whole bytes": changed(
            ROOFLINE, ("self.cache_bits / 8", "(self.cache_bits // 8)")
        ),
        "attention for one row": changed(
            ROOFLINE, ("context * batch * rows\n", "context * batch\n")
        ),
        "attention with the peak of the weights": changed(
            ROOFLINE, ("self.float_peak", "self.peak")
        ),
        "half of the operations of attention": changed(ROOFLINE, ("= 4 * layers", "= 2 * layers")),
        "the balance of 16 bits": changed(
            ROOFLINE, ("self.precision.bits * self.peak", "16 * self.peak")
        ),
        "the balance with the peak of one device": changed(
            ROOFLINE,
            (
                "self.precision.bits * self.peak",
                "self.precision.bits * self.hardware.operations_per_second(self.precision)",
            ),
        ),
        "the inverse balance": changed(
            ROOFLINE,
            (
                "self.precision.bits * self.peak / (16 * self.bandwidth)",
                "16 * self.bandwidth / (self.precision.bits * self.peak)",
            ),
        ),
    },
)

BREAK_EVEN = """
def break_even_acceptance(cost, batch, context, max_drafts=MAX_DRAFTS):
    def speed(a):
        accepted = Acceptance((a,), max_drafts)
        return best_round(cost, accepted, batch, context, min_drafts=1).tokens_per_second

    plain = best_round(cost, None, batch, context).tokens_per_second
    if speed(1.0) < plain:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if speed(middle) >= plain:
            high = middle
        else:
            low = middle
    return high
"""

EXERCISES[2] = Solutions(
    right={
        "40 halvings": BREAK_EVEN,
        "ten parts, ten times": """
def break_even_acceptance(cost, batch, context, max_drafts=MAX_DRAFTS):
    def gain(a):
        drafting = best_round(cost, Acceptance((min(a, 1.0),), max_drafts), batch, context, 1)
        return drafting.tokens_per_second - plain

    plain = best_round(cost, Acceptance((0.0,), 0), batch, context).tokens_per_second
    if gain(1.0) < 0:
        return None
    start, step = 0.0, 0.1
    for _ in range(10):
        start = next(start + step * i for i in range(11) if gain(start + step * (i + 1)) >= 0)
        step /= 10
    return start
""",
        "bisect": """
from bisect import bisect_left

def break_even_acceptance(cost, batch, context, max_drafts=MAX_DRAFTS):
    parts = 10**9
    plain = best_round(cost, None, batch, context).tokens_per_second

    def pays(number):
        accepted = Acceptance((number / parts,), max_drafts)
        return best_round(cost, accepted, batch, context, 1).tokens_per_second >= plain

    found = bisect_left(range(parts + 1), True, key=pays)
    return None if found > parts else found / parts
""",
    },
    wrong={
        "drafting may rest": changed(BREAK_EVEN, ("min_drafts=1", "min_drafts=0")),
        "the wrong half": changed(BREAK_EVEN, (">= plain", "<= plain")),
        "always an answer": changed(BREAK_EVEN, ("speed(1.0) < plain", "False")),
        "no answer if perfect drafts are as fast as none": changed(
            BREAK_EVEN, ("speed(1.0) < plain", "speed(1.0) <= plain")
        ),
        "one request": changed(
            BREAK_EVEN, ("accepted, batch,", "accepted, 1,"), ("None, batch,", "None, 1,")
        ),
        "plain decoding of one request": changed(BREAK_EVEN, ("None, batch,", "None, 1,")),
        "an empty cache": changed(
            BREAK_EVEN,
            ("accepted, batch, context", "accepted, batch, 0"),
            ("None, batch, context", "None, batch, 0"),
        ),
        "drafts of any length": changed(
            BREAK_EVEN, ("Acceptance((a,), max_drafts)", "Acceptance((a,))")
        ),
        "the longest drafts only": changed(BREAK_EVEN, ("min_drafts=1", "min_drafts=max_drafts")),
        "single drafts only": changed(
            BREAK_EVEN, ("Acceptance((a,), max_drafts)", "Acceptance((a,), 1)")
        ),
        "five halvings": changed(BREAK_EVEN, ("range(40)", "range(5)")),
    },
)

PERCENTILE = """
def percentile(values, share):
    numbers = sorted(v for v in values if v == v)
    if not numbers:
        return float("nan")
    needed = max(1, math.ceil(share * len(numbers)))
    return numbers[needed - 1]
"""

EXERCISES[3] = Solutions(
    right={
        "counted from below": PERCENTILE,
        "the smallest that is large enough": """
def percentile(values, share):
    numbers = [v for v in values if not math.isnan(v)]
    for value in sorted(numbers):
        if sum(other <= value for other in numbers) >= share * len(numbers):
            return value
    return math.nan
""",
    },
    wrong={
        "NaN is sorted, too": changed(PERCENTILE, (" if v == v", "")),
        "only math.nan is left out": changed(PERCENTILE, ("v == v", "v is not math.nan")),
        "NaN counts": changed(
            PERCENTILE,
            ("len(numbers)))", "len(values)))"),
            ("[needed - 1]", "[min(needed, len(numbers)) - 1]"),
        ),
        "one too far": changed(PERCENTILE, ("[needed - 1]", "[min(needed, len(numbers) - 1)]")),
        "rounded down": changed(PERCENTILE, ("math.ceil", "math.floor")),
        "rounded to the nearest": changed(PERCENTILE, ("math.ceil", "round")),
        "share 0 is the last value": changed(
            PERCENTILE,
            ("max(1, math.ceil(share * len(numbers)))", "math.ceil(share * len(numbers))"),
        ),
        "from above": changed(PERCENTILE, ("v == v)", "v == v)[::-1]")),
        "not sorted": changed(
            PERCENTILE, ("sorted(v for v in values if v == v)", "[v for v in values if v == v]")
        ),
        "between two values": """
def percentile(values, share):
    numbers = sorted(v for v in values if v == v)
    if not numbers:
        return math.nan
    place = share * (len(numbers) - 1)
    low = math.floor(place)
    high = min(low + 1, len(numbers) - 1)
    return numbers[low] + (place - low) * (numbers[high] - numbers[low])
""",
        "no values": changed(
            PERCENTILE, ('    if not numbers:\n        return float("nan")\n', "")
        ),
        "the list is sorted": """
def percentile(values, share):
    if isinstance(values, list):
        values.sort()
    numbers = sorted(v for v in values if v == v)
    return numbers[max(0, math.ceil(share * len(numbers)) - 1)] if numbers else math.nan
""",
    },
)
