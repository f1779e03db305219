"""Many requests on one replica: a simulation of continuous batching.

**Model.** Requests arrive, wait in line, and are admitted while there is room in the batch and in
the cache. Admission reserves the cache of the whole request, so nothing is ever evicted. In each
round all running requests decode, and up to `chunk` rows of unread prompts join the same pass
(chunked prefill, Agrawal et al. 2024, 2403.02310). A prompt's last row gives the first token.

**Events.** Between two events (an arrival that can be admitted, a prompt that is read, a request
that ends) every round has the same length, up to the growing caches and the place in
a prompt, which are linear. So the
simulation jumps from event to event. All running requests advance by the same number of tokens per
round. The clock of a request's end is therefore the *progress* of the replica: the tokens that a
request running from the start would have. A heap holds the progress at which each running request
ends. It takes about five steps per request, whatever its length.

A heap (`heapq`) is all that this needs. SimPy would give each request a coroutine that waits for
each of its rounds: hundreds of events per request instead of five, and a dependency.

**Several replicas** share the requests at random, so each sees Poisson arrivals again. One replica
is simulated.

Checked in the tests: conservation of requests and tokens, Little's law, and the waiting times of
M/D/1 and M/M/1 (Pollaczek 1930, Khinchine 1932).
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

EPSILON = 1e-9  # tokens


class Request(NamedTuple):
    """arrival: seconds. prompt, new: tokens, at least 1."""

    arrival: float
    prompt: int
    new: int


class Replica(Protocol):
    """What a simulation needs to know about a replica.

    max_batch: requests at the same time. cache_tokens: tokens that the cache holds. chunk: rows of
    prompts per round.
    """

    max_batch: int
    cache_tokens: float
    chunk: int

    def round(
        self, batch: int, context: float, prompt_rows: int, prompt_context: float
    ) -> tuple[float, float]:
        """Return (seconds, tokens per running request) of a round. context: mean tokens in the
        caches. prompt_context: mean tokens that a row of a prompt attends to. batch 0: only prompts
        are read.
        """


@dataclass(frozen=True)
class Served:
    """The result. Times in seconds; each list has one entry per request, in order of arrival."""

    first_token: list[float]  # from the arrival
    per_token: list[float]  # between the first and the last token; NaN for a request of one token
    total: list[float]  # from the arrival to the last token
    tokens: int  # new tokens of all requests
    seconds: float  # from the first arrival to the last end
    busy_seconds: float
    request_seconds: float  # integral of the number of requests present

    @property
    def utilisation(self) -> float:
        """Return the share of the time in which the replica was working."""
        return self.busy_seconds / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def poisson(
    count: int, per_second: float, prompt: float, new: float, spread: float, seed: int
) -> list[Request]:
    """Return requests with Poisson arrivals.

    prompt, new: mean lengths. spread: their standard deviation over the mean. Lengths follow a
    gamma distribution: 0 is constant, 1 exponential.
    """
    rng = random.Random(seed)
    time, requests = 0.0, []
    for _ in range(count):
        time += rng.expovariate(per_second)
        requests.append(Request(time, _length(rng, prompt, spread), _length(rng, new, spread)))
    return requests


def _length(rng: random.Random, mean: float, spread: float) -> int:
    if spread < 1e-3:
        return max(1, round(mean))
    shape = 1 / spread**2
    return max(1, round(rng.gammavariate(shape, mean / shape)))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed.

    NaN does not count. Without any other value, the result is NaN.
    """
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def simulate(requests: Sequence[Request], replica: Replica) -> Served:
    """Serve requests, sorted by arrival, to the end. Each must fit the cache alone."""
    return _Simulation(requests, replica).run()


class _Simulation:
    def __init__(self, requests: Sequence[Request], replica: Replica) -> None:
        self.requests, self.replica = requests, replica
        self.time = requests[0].arrival if requests else 0.0
        self.next = 0  # the first request that has not arrived
        self.waiting: deque[int] = deque()
        self.reading: deque[int] = deque()  # admitted, prompt not read to the end
        self.left = 0  # unread rows of the first of them
        self.unread = 0  # of all of them
        self.running: list[tuple[float, int]] = []  # heap of (progress at the end, request)
        self.progress = 0.0
        self.started: dict[int, float] = {}  # progress at the first token
        self.context = 0.0  # tokens in the caches of the running requests
        self.reserved = 0
        self.busy = self.area = 0.0
        count = len(requests)
        self.first, self.last = [math.nan] * count, [math.nan] * count

    def run(self) -> Served:
        began = self.time
        while True:
            self._arrive()
            self._admit()
            if not self.running and not self.reading:
                if self.next == len(self.requests):
                    break
                self.time = self.requests[self.next].arrival
                continue
            self._step()
        pairs = list(zip(self.requests, self.first, self.last, strict=True))
        per_token = [
            (last - first) / (request.new - 1) if request.new > 1 else math.nan
            for request, first, last in pairs
        ]
        return Served(
            first_token=[first - request.arrival for request, first, _ in pairs],
            per_token=per_token,
            total=[last - request.arrival for request, _, last in pairs],
            tokens=sum(request.new for request in self.requests),
            seconds=max(self.time - began, 1e-12),
            busy_seconds=self.busy,
            request_seconds=self.area,
        )

    def _arrive(self) -> None:
        while self.next < len(self.requests) and self.requests[self.next].arrival <= self.time:
            self.waiting.append(self.next)
            self.next += 1

    def _admit(self) -> None:
        while self.waiting:
            request = self.requests[self.waiting[0]]
            size = request.prompt + request.new
            if len(self.running) + len(self.reading) >= self.replica.max_batch:
                return
            if self.reserved + size > self.replica.cache_tokens:
                return
            self.reserved += size
            if not self.reading:
                self.left = request.prompt
            self.unread += request.prompt
            self.reading.append(self.waiting.popleft())

    def _step(self) -> None:
        """Advance by as many rounds as pass before the next event."""
        batch = len(self.running)
        rows = min(self.unread, self.replica.chunk)
        seconds, tokens = self._round(batch, 0.0, rows, 1)
        rounds = min(self._rounds_to_events(batch, seconds, tokens))
        if rounds > 1:
            seconds, tokens = self._round(batch, tokens * rounds / 2, rows, rounds)
        self._advance(rounds * seconds)
        self.progress += rounds * tokens
        self.context += rounds * tokens * batch
        self._end_requests()
        self._read(rounds * rows)

    def _round(self, batch: int, ahead: float, rows: int, rounds: int) -> tuple[float, float]:
        """The mean of `rounds` rounds, with caches longer by `ahead` tokens than now."""
        context = self.context / batch + ahead if batch else 0.0
        return self.replica.round(batch, context, rows, self._prompt_context(rows, rounds))

    def _prompt_context(self, rows: int, rounds: int) -> float:
        """Return how many tokens a row of a prompt attends to, the mean of the next `rounds`
        rounds with `rows` rows each. In several rounds, all rows belong to one prompt.
        """
        attended, left = 0.0, rows * rounds
        for number, index in enumerate(self.reading):
            unread = self.requests[index].prompt if number else self.left
            read = min(left, unread)
            attended += read * (self.requests[index].prompt - unread + read / 2)
            left -= read
            if not left:
                break
        return attended / (rows * rounds) if rows else 0.0

    def _rounds_to_events(self, batch: int, seconds: float, tokens: float) -> Iterator[int]:
        if self.reading:
            yield max(1, self.left // self.replica.chunk)
        if batch:
            yield max(1, math.ceil((self.running[0][0] - self.progress - EPSILON) / tokens))
        has_room = batch + len(self.reading) < self.replica.max_batch and not self.waiting
        if has_room and self.next < len(self.requests):
            gap = self.requests[self.next].arrival - self.time
            if gap < 1e15 * seconds:  # otherwise another event comes first
                yield max(1, math.ceil(gap / seconds))

    def _advance(self, seconds: float) -> None:
        """Let time pass, and count the requests that are present."""
        present = len(self.running) + len(self.reading) + len(self.waiting)
        self.area += present * seconds
        self.time += seconds
        self.busy += seconds
        index = self.next
        while index < len(self.requests) and self.requests[index].arrival <= self.time:
            self.area += self.time - self.requests[index].arrival
            index += 1

    def _end_requests(self) -> None:
        while self.running and self.running[0][0] <= self.progress + EPSILON:
            _, index = heapq.heappop(self.running)
            request = self.requests[index]
            self.context -= request.prompt + self.progress - self.started.pop(index)
            self._end(index)
        if not self.running:
            self.context = self.progress = 0.0  # no rounding errors accumulate

    def _read(self, rows: int) -> None:
        """Read rows of the prompts, the oldest first."""
        self.unread -= rows
        while rows:
            read = min(rows, self.left)
            rows -= read
            self.left -= read
            if not self.left:
                self._start_decoding()

    def _start_decoding(self) -> None:
        index = self.reading.popleft()
        request = self.requests[index]
        self.first[index] = self.time
        if request.new == 1:
            self._end(index)
        else:
            self.started[index] = self.progress
            heapq.heappush(self.running, (self.progress + request.new - 1, index))
            self.context += request.prompt
        if self.reading:
            self.left = self.requests[self.reading[0]].prompt

    def _end(self, index: int) -> None:
        request = self.requests[index]
        self.last[index] = self.time
        self.reserved -= request.prompt + request.new
