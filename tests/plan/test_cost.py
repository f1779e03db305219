"""The roofline against hand calculation, and its monotonicity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.plan.costs import cost as costs
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import HALF, INT4, Hardware, ModelSize, hardware, model
from minimtp.plan.costs.speculation import Acceptance, best_round, round_of

SMALL = ModelSize(
    hidden_size=100, intermediate_size=200, num_hidden_layers=3, num_attention_heads=2,
    vocab_size=1000,
)  # fmt: skip
CARD = Hardware(1, 1, 1, bandwidth_efficiency=0.5, compute_efficiency=0.25)


@pytest.fixture
def roofline(own):
    """roofline(**changes) returns the cost of passes of SMALL on CARD, or of what is changed."""
    given = {"model": SMALL, "precision": HALF, "hardware": CARD, "drafter": Drafter()}
    return lambda **changes: own(costs.Roofline)(**given | changes)


def check(found, expected, term):
    """term: a sentence that says which part of an answer gives the number, and how."""
    assert found == pytest.approx(expected), f"{term}: expected {expected:.6g}, got {found:.6g}"


def test_a_memory_bound_pass_takes_the_time_of_reading_weights_and_cache(roofline):
    weights = 3 * (4 * 100 * 100 + 3 * 100 * 200) + 1000 * 100  # two bytes each
    cache = 2 * 3 * 100 * 2 * 50  # keys and values, layers, width, bytes, context
    reading, with_cache = (roofline().pass_seconds(1, 1, context) for context in (0, 50))
    check(reading, 2 * weights / (0.5 * 1e9), "_matrix, seconds of reading all weights once")
    check(
        with_cache - reading,
        cache / (0.5 * 1e9),
        "_attention, seconds of reading the keys and values of one request in all layers",
    )


def test_the_token_table_has_a_precision_of_its_own(roofline):
    layers = 3 * (4 * 100 * 100 + 3 * 100 * 200)
    expected = (4.5 / 8 * layers + 8.5 / 8 * 1000 * 100) / (0.5 * 1e9)
    found = roofline(precision=INT4).pass_seconds(1, 1, 0)
    check(found, expected, "_matrix, seconds of reading weights that have `bits` bits each")


def test_the_cache_of_each_request_is_read_once_however_many_rows_the_request_has(roofline):
    one = roofline().pass_seconds(1, 1, 50)
    cache = 2 * 3 * 100 * 2 * 50 / (0.5 * 1e9)
    for rows in (1, 4):
        more = roofline().pass_seconds(3, rows, 50) - one
        term = f"_attention, seconds of reading the caches of two more requests, {rows} rows each"
        check(more, 2 * cache, term)
    for bits, less in ((8, cache / 2), (4.5, 11.5 / 16 * cache)):
        found = one - roofline(cache_bits=bits).pass_seconds(1, 1, 50)
        check(found, less, f"_attention, seconds that a cache with {bits} bits per number saves")


def test_a_pass_over_no_rows_reads_nothing(roofline):
    found = roofline().pass_seconds(0, 0, 0)
    assert found == 0, f"_matrix: without rows, no weight is read, but the pass takes {found:.6g} s"


def test_every_row_attends_to_the_cache_of_its_own_request(roofline):
    fast = Hardware(1, 1e6, 1, bandwidth_efficiency=1.0, compute_efficiency=1.0)
    cost = roofline(hardware=fast)
    with_cache, without = (cost.pass_seconds(6, 4, context) for context in (50, 0))
    expected = 4 * 3 * 100 * 50 * 24 / 1e12
    check(with_cache - without, expected, "_attention, seconds of its operations for all rows")


GROUPED = ModelSize(
    hidden_size=100, intermediate_size=200, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=1, head_dim=40, vocab_size=1000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("gigabytes", "teraflops", "expected"),
    [(1, 1e9, 2 * 3 * 40 * 2 * 50 * 6 / 1e9), (1e9, 1, 4 * 3 * 160 * 50 * 24 / 1e12)],
)
def test_a_cache_is_as_wide_as_the_keys_and_its_operations_are_as_many_as_the_queries_need(
    roofline, gigabytes, teraflops, expected
):
    """Queries of 4 x 40 numbers, keys of 1 x 40: reading is the limit, then multiplying."""
    card = Hardware(1, gigabytes, teraflops, bandwidth_efficiency=1.0, compute_efficiency=1.0)
    cost = roofline(model=GROUPED, hardware=card)
    with_cache, without = (cost.pass_seconds(6, 4, context) for context in (50, 0))
    limit = (
        "reading, as wide as the keys" if gigabytes == 1 else "operations, as wide as the queries"
    )
    check(with_cache - without, expected, f"_attention, seconds of {limit}")


@pytest.mark.parametrize(
    ("gigabytes", "teraflops", "expected"),
    [
        (1, 1e9, 2 * 100 * 2 * 50 * 6 * 3 / 1e9),  # the cache of a layer, in 3 drafts
        (1e9, 1, 4 * 100 * 50 * 6 * (4 + 1 + 1) / 1e12),  # the first draft has 4 rows per request
    ],
)
def test_a_drafter_has_the_cache_of_its_own_layer(roofline, gigabytes, teraflops, expected):
    card = Hardware(1, gigabytes, teraflops, bandwidth_efficiency=1.0, compute_efficiency=1.0)
    cost = roofline(hardware=card)
    with_cache, without = (cost.draft_seconds(6, 3, context) for context in (50, 0))
    term = (
        "_attention of the drafter (`layers` says how many layers the cache has: here 1), seconds"
    )
    check(with_cache - without, expected, term)


def test_a_compute_bound_pass_takes_the_time_of_its_operations(roofline):
    rows = 10_000
    weights = 3 * (4 * 100 * 100 + 3 * 100 * 200) + 1000 * 100
    attention = 4 * 3 * 100 * 50 * rows
    multiplying, with_cache = (roofline().pass_seconds(1, rows, context) for context in (0, 50))
    check(multiplying, 2 * weights * rows / (0.25 * 1e12), "_matrix, seconds of its operations")
    found = with_cache - multiplying
    check(found, attention / (0.25 * 1e12), "_attention, seconds of its operations")


def test_codes_do_not_speed_up_attention_because_it_multiplies_no_weights(roofline):
    both = Hardware(1, 1e6, 1, 4, bandwidth_efficiency=1.0, compute_efficiency=1.0)
    for precision in (HALF, INT4):
        cost = roofline(hardware=both, precision=precision)
        with_cache, without = (cost.pass_seconds(6, 4, context) for context in (50, 0))
        expected = 4 * 3 * 100 * 50 * 24 / 1e12
        check(with_cache - without, expected, "_attention, seconds of its operations (float_peak)")
    fast, slow = (roofline(hardware=both, precision=p) for p in (INT4, HALF))
    row = slow.pass_seconds(0, 0, 0, 1000) - fast.pass_seconds(0, 0, 0, 1000)
    weights = 3 * (4 * 100 * 100 + 3 * 100 * 200) * 1000 + 1000 * 100
    check(row, 2 * weights * (1 - 1 / 4) / 1e12, "what int4 saves of a prompt")


def test_rows_below_the_balance_are_free_and_rows_above_it_are_not(roofline):
    cost = roofline(hardware=hardware("h100"), model=model("8b"))
    balance = cost.balanced_rows
    check(balance, 0.6 * 989e12 / (0.8 * 3350e9), "balanced_rows with 16-bit weights")
    free = cost.pass_seconds(1, int(0.95 * balance), 0)
    check(free, cost.pass_seconds(1, 1, 0), "_matrix, seconds of a pass just below the balance")
    twice = cost.pass_seconds(1, int(4 * balance), 0) / cost.pass_seconds(1, int(2 * balance), 0)
    assert twice == pytest.approx(2, rel=0.1), (
        f"_matrix: far above the balance, twice the rows take about twice the time, not {twice:.3g}"
    )


def test_four_bit_weights_are_compute_bound_at_fewer_rows(roofline):
    found, half = roofline(precision=INT4).balanced_rows, roofline().balanced_rows
    check(found, 4.5 / 16 * half, "balanced_rows with 4.5-bit weights")


def test_the_balance_of_several_devices_is_that_of_one(roofline):
    """Their bandwidths add up, and their peaks."""
    four = roofline(devices=4, parallel_efficiency=0.5)
    check(four.balanced_rows, roofline().balanced_rows, "balanced_rows of four devices")


def test_several_devices_divide_the_time_by_their_number_and_their_efficiency(roofline):
    one = roofline().pass_seconds(4, 2, 100)
    four = roofline(devices=4, parallel_efficiency=0.5).pass_seconds(4, 2, 100)
    check(four, one / 2, "seconds of a pass on four devices (use self.bandwidth and the peaks)")


def test_launching_takes_time_for_each_layer(roofline):
    card = Hardware(
        1, 1, 1, bandwidth_efficiency=0.5, compute_efficiency=0.25, layer_microseconds=7
    )
    extra = roofline(hardware=card).pass_seconds(1, 1, 9) - roofline().pass_seconds(1, 1, 9)
    assert extra == pytest.approx(21e-6)


def test_no_drafts_cost_nothing():
    cost = costs.Roofline(SMALL, HALF, hardware("h100"), Drafter())
    assert cost.draft_seconds(8, 0, 100) == 0


counts = st.integers(1, 500)


@given(batch=counts, rows=st.integers(1, 16), context=st.integers(0, 10_000))
def test_more_rows_requests_or_context_never_make_a_pass_shorter(roofline, batch, rows, context):
    cost = roofline(model=model("8b"), hardware=hardware("rtx4090"))
    seconds = cost.pass_seconds(batch, rows, context)
    assert seconds > 0
    assert cost.pass_seconds(batch + 1, rows, context) >= seconds
    assert cost.pass_seconds(batch, rows + 1, context) >= seconds
    assert cost.pass_seconds(batch, rows, context + 1) >= seconds
    assert cost.pass_seconds(batch, rows, context, prompt_rows=64) >= seconds


@given(
    batch=counts,
    acceptance=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    factor=st.floats(1, 100),
)
def test_faster_memory_or_a_higher_peak_never_makes_the_best_round_slower(
    roofline, batch, acceptance, factor
):
    slow = hardware("rtx4090")
    accepted = Acceptance(tuple(acceptance))

    def speed(**changes):
        card = Hardware(**{name: getattr(slow, name) for name in slow.__struct_fields__} | changes)
        cost = roofline(model=model("8b"), hardware=card)
        return best_round(cost, accepted, batch, 500).tokens_per_second

    base = speed()
    assert speed(gigabytes_per_second=factor * slow.gigabytes_per_second) >= base * (1 - 1e-12)
    assert speed(teraflops=factor * slow.teraflops) >= base * (1 - 1e-12)


@given(batch=counts, drafts=st.integers(1, 15), a=st.floats(0, 1), b=st.floats(0, 1))
def test_a_higher_acceptance_never_makes_a_round_slower(roofline, batch, drafts, a, b):
    cost = roofline(model=model("8b"), hardware=hardware("h100"))
    low, high = (
        round_of(cost, Acceptance((value,)), batch, 500, drafts) for value in sorted((a, b))
    )
    assert low.seconds == high.seconds
    assert low.tokens_per_second <= high.tokens_per_second
