"""The simulation against queueing theory, and what it must conserve."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimtp.plan import serving
from minimtp.plan.costs.cost import Roofline
from minimtp.plan.costs.memory import Drafter
from minimtp.plan.costs.sizes import HALF, hardware, model
from minimtp.plan.serving import Request, poisson, simulate


class Server:
    """A replica whose rounds take a fixed time. row: seconds for each row of a prompt."""

    def __init__(self, max_batch=1, seconds=1.0, tokens=1.0, cache=math.inf, chunk=1000, row=0.0):
        self.max_batch, self.seconds, self.tokens = max_batch, seconds, tokens
        self.cache_tokens, self.chunk, self.row = cache, chunk, row
        self.largest_batch = self.rounds = 0

    def round(self, batch, context, prompt_rows, prompt_context):
        self.largest_batch = max(self.largest_batch, batch)
        self.rounds += 1
        return (self.seconds if batch else 0.0) + self.row * prompt_rows, self.tokens


def waits(requests, served):
    """Times in the queue of a server that takes a second per token after the first."""
    return [total - (r.new - 1) for r, total in zip(requests, served.total, strict=True)]


@pytest.mark.parametrize(("load", "count"), [(0.3, 15_000), (0.7, 15_000), (0.9, 60_000)])
def test_constant_lengths_wait_as_long_as_in_the_queue_m_d_1(load, count):
    length = 50
    requests = poisson(count, load / length, 1, length + 1, 0, seed=3)
    found = waits(requests, simulate(requests, Server()))
    expected = load * length / (2 * (1 - load))  # Pollaczek-Khinchine
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_exponential_lengths_wait_as_long_as_in_the_queue_m_m_1(load):
    length = 200
    requests = [
        r._replace(prompt=1, new=r.new + 1)
        for r in poisson(15_000, load / length, 1, length, 1, seed=5)
    ]
    found = waits(requests, simulate(requests, Server()))
    assert sum(found) / len(found) == pytest.approx(load * length / (1 - load), rel=0.08)
    busy = simulate(requests, Server()).utilisation
    assert busy == pytest.approx(load, rel=0.03)


arrivals = st.lists(
    st.tuples(st.floats(0, 300), st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=60
)
servers = st.builds(
    Server,
    max_batch=st.integers(1, 8),
    seconds=st.floats(0.1, 3),
    tokens=st.floats(1, 5),
    cache=st.integers(100, 400),
    chunk=st.integers(1, 64),
    row=st.floats(0, 0.1),
)


@given(arrivals, servers)
@settings(max_examples=200)
def test_requests_and_tokens_are_conserved_and_littles_law_holds(listed, server):
    requests = [Request(*r) for r in sorted(listed)]
    served = simulate(requests, server)
    assert served.tokens == sum(r.new for r in requests)
    assert len(served.total) == len(requests)
    assert all(math.isfinite(t) for t in served.total)
    assert server.largest_batch <= server.max_batch
    # Little: mean number present = rate of arrivals x mean time in the system.
    assert served.request_seconds == pytest.approx(sum(served.total), rel=1e-6, abs=1e-6)
    for request, first, total in zip(requests, served.first_token, served.total, strict=True):
        assert 0 <= first <= total + 1e-9
        least = request.prompt * server.row
        rounds = math.ceil((request.new - 1) / server.tokens - 1e-6)
        assert total >= least + rounds * server.seconds - 1e-6
    assert served.busy_seconds <= served.seconds * (1 + 1e-9) + 1e-9


@given(arrivals)
def test_a_request_alone_takes_its_prompt_and_its_rounds(listed):
    request = Request(*listed[0])
    served = simulate([request], Server(seconds=0.5, tokens=2.0, chunk=16, row=0.01))
    rounds = math.ceil((request.new - 1) / 2)
    assert served.first_token == pytest.approx([0.01 * request.prompt])
    assert served.total == pytest.approx([0.01 * request.prompt + 0.5 * rounds])


def test_requests_arriving_together_share_the_rounds_of_a_large_batch():
    requests = [Request(0.0, 1, 11)] * 8
    assert simulate(requests, Server(max_batch=8)).seconds == pytest.approx(10)
    assert simulate(requests, Server(max_batch=2)).seconds == pytest.approx(40)


def test_the_cache_limits_the_requests_at_the_same_time():
    requests = [Request(0.0, 10, 11)] * 6
    server = Server(max_batch=6, cache=43)  # two of 21 tokens
    assert simulate(requests, server).seconds == pytest.approx(30)
    assert server.largest_batch == 2


def test_a_request_takes_about_five_steps_however_long_its_answer_is():
    for new, load in ((10, 1.0), (10_000, 1e-3), (1_000_000, 1e-5)):
        server = Server(max_batch=64)
        simulate(poisson(2000, load, 1, new, 0, seed=1), server)
        assert server.rounds < 6 * 2000


def test_the_same_seed_gives_the_same_requests():
    assert poisson(50, 2.0, 100, 50, 0.5, 7) == poisson(50, 2.0, 100, 50, 0.5, 7)
    assert poisson(50, 2.0, 100, 50, 0.5, 7) != poisson(50, 2.0, 100, 50, 0.5, 8)
    mean = sum(r.prompt for r in poisson(20_000, 2.0, 100, 50, 0.5, 7)) / 20_000
    assert mean == pytest.approx(100, rel=0.02)


@pytest.fixture
def percentile(own):
    return own(serving.percentile)


def test_percentiles_are_values_of_the_list_and_ignore_nan(percentile):
    found = percentile([4.0, 1.0, 3.0, 2.0], 0.5)
    assert found == 2.0, f"half of 4, 1, 3, 2: return a value of the list, 2, not {found}"
    found = percentile([math.nan, 5.0], 0.95)
    assert found == 5.0, f"a NaN does not count: expected 5, got {found}"
    for values in ([5.0, float("nan")], [float("nan"), 5.0]):
        assert percentile(values, 1) == percentile(values, 0.5) == 5.0, (
            "not every NaN is the object math.nan"
        )
    found = percentile([3.0, math.nan, 1.0, math.nan, 2.0], 0.5)
    assert found == 2.0, f"half of 3, nan, 1, nan, 2: expected 2, got {found}"
    for values in ([math.nan], []):
        found = percentile(values, 0.5)
        assert math.isnan(found), f"of {values}, without a number: expected nan, got {found}"


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=40),
    st.sampled_from([0, 0.25, 0.5, 0.75, 0.95, 1]),
)
def test_a_percentile_is_the_smallest_value_that_enough_values_do_not_exceed(
    percentile, values, share
):
    before = list(values)
    enough = [v for v in values if sum(other <= v for other in values) >= share * len(values)]
    found = percentile(values, share)
    assert found == min(enough), (
        f"share {share} of {before}: expected the value {min(enough)} of the list, got {found}"
    )
    assert values == before, "the list that is passed in must not change"


@pytest.mark.parametrize("prompt", [1, 700, 2048, 100_000])
@pytest.mark.parametrize("chunk", [256, 1000, 131_072])
def test_a_prompt_on_an_empty_server_takes_at_least_the_time_of_one_pass(prompt, chunk):
    cost = Roofline(model("8b"), HALF, hardware("h100"), Drafter())

    class Replica(Server):
        def round(self, batch, context, prompt_rows, prompt_context):
            if batch:
                return 1.0, 1.0
            return cost.pass_seconds(0, 0, 0, prompt_rows, prompt_context), 0.0

    served = simulate([Request(0.0, prompt, 2)], Replica(chunk=chunk))
    whole = cost.pass_seconds(0, 0, 0, prompt)
    assert served.first_token[0] >= whole * (1 - 1e-12)
    if prompt <= chunk:
        assert served.first_token[0] == pytest.approx(whole)


def test_rows_of_several_prompts_attend_to_their_own_prompts_only():
    seen = []

    class Replica(Server):
        def round(self, batch, context, prompt_rows, prompt_context):
            seen.append((prompt_rows, prompt_context))
            return super().round(batch, context, prompt_rows, prompt_context)

    simulate([Request(0.0, 4, 1), Request(0.0, 8, 1)], Replica(max_batch=2, chunk=10))
    # 4 rows attend to 2 tokens and 6 to 3 on average; the last 2 follow 6 others.
    assert seen[0] == (10, (4 * 2 + 6 * 3) / 10) and seen[-1] == (2, 7.0)
