"""The answer: what each configuration needs and costs, where its gain ends, and what to do.

Four configurations are compared: 16-bit weights and 4-bit weights, each without drafts and with
them. A configuration runs on the number of devices, and with the number of requests B at a time,
that serve the load on the fewest devices. With B requests at a time, a replica serves

    1 / (p + n t_B / (E B))                                                    requests per second

with p seconds for the prompt, n new tokens, and a round of t_B seconds and E tokens
(speculation.py). Replicas are planned for the share `utilisation` of what they can do. A round
drafts only if that is faster, so drafting rests at large B, as it does in `generate`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from minimtp.errors import UserError, shown
from minimtp.plan.candidates import Candidate
from minimtp.plan.costs.cost import PassCost, Roofline
from minimtp.plan.costs.memory import max_requests, usable_bytes
from minimtp.plan.costs.sizes import GIGA, Hardware
from minimtp.plan.costs.speculation import (
    Round,
    best_round,
    break_even_acceptance,
    largest_gaining_batch,
)
from minimtp.plan.serving import Request, Served, percentile, poisson, simulate
from minimtp.plan.settings import SIMULATED, Settings

GAIN = 1.05  # a speed-up below is not worth its complexity


@dataclass(frozen=True)
class Point:
    """A configuration at work: `batch` requests at the same time on a replica of `devices`."""

    devices: int
    batch: int
    drafts: int
    tokens_per_pass: float
    tokens_per_second: float  # of one request, prompts of the others included
    requests_per_hour: float  # of one device
    needed: int  # devices for the load; 1 replica without a load
    device_hours_per_million: float  # new tokens
    dollars_per_million: float
    cache_gigabytes: float


@dataclass
class Row:
    """A configuration in the table. point is None if it fits nowhere; then `reason` says why."""

    candidate: Candidate
    point: Point | None
    reason: str = ""
    relative_cost: float | None = None
    service: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BreakEven:
    """Where a gain ends. kind: "batch" (the most requests at a time with a gain over the
    configuration `over`), "acceptance" (the least, at `batch` requests) or "rows" (of a pass, from
    which the layers are compute-bound). value None: there is no such point.
    """

    name: str
    kind: str
    value: float | None
    batch: int | None = None
    over: str | None = None


@dataclass
class Plan:
    """The whole answer. speedups: by configuration, (batch, speed-up over the first one)."""

    rows: list[Row]
    speedups: dict[str, list[tuple[int, float]]]
    devices: int  # of a replica in `speedups` and `break_even`
    break_even: list[BreakEven]

    @property
    def most(self) -> int:
        """The most requests at a time in `speedups`."""
        return next(iter(self.speedups.values()))[-1][0]


def make_plan(
    found: Sequence[Candidate], hardware: Hardware, settings: Settings, with_service: bool = True
) -> Plan:
    """Compare the candidates. Raises UserError if none of them fits.

    with_service: simulate the requests.
    """
    rows = [_row(candidate, hardware, settings) for candidate in found]
    if not any(row.point for row in rows):
        raise UserError(
            f"no configuration fits {shown(hardware.title)}: {rows[-1].reason}: choose other "
            "--hardware, a smaller --model, fewer --bits or shorter requests"
        )
    baseline = next(row.point for row in rows if row.point)
    for row in rows:
        if row.point:
            row.relative_cost = (
                row.point.device_hours_per_million / baseline.device_hours_per_million
            )
            if with_service:
                row.service = _service(row, hardware, settings)
    fitting = [row.candidate for row in rows if row.point]
    devices, room = _roomiest(fitting, hardware, settings)
    speedups = _speedups(fitting, settings, devices, room)
    break_even = _break_even(fitting, settings, devices, speedups, baseline.batch)
    return Plan(rows, speedups, devices, break_even)


def _row(candidate: Candidate, hardware: Hardware, settings: Settings) -> Row:
    points = [
        point
        for devices in settings.replica_sizes(hardware.linked_devices)
        for point in _points(candidate, hardware, settings, devices)
    ]
    if not points:
        least = (candidate.weights + candidate.cache_per_token * settings.tokens) / GIGA
        count = settings.replica_sizes(hardware.linked_devices)[-1]
        most = usable_bytes(hardware, count, settings.memory_share) / GIGA
        reason = (
            f"{candidate.name} needs {least:,.1f} GB for one request, and {count} "
            f"device{'s' * (count > 1)} can hold {most:,.1f} GB"
        )
        return Row(candidate, None, reason)
    fast = [p for p in points if p.tokens_per_second >= settings.min_tokens_per_second]
    if not fast:  # no point is fast enough: take the fastest
        return Row(candidate, max(points, key=lambda p: p.tokens_per_second), "slow")
    return Row(candidate, min(fast, key=lambda p: (_bill(p, settings), -p.tokens_per_second)))


def _bill(point: Point, settings: Settings) -> float:
    """What a choice of devices and batch should minimize: the devices."""
    if settings.requests_per_hour is None:
        return 1 / point.requests_per_hour
    return point.needed


def _roomiest(
    fitting: Sequence[Candidate], hardware: Hardware, settings: Settings
) -> tuple[int, int]:
    """Return (devices, requests): the replica on which the most requests at a time fit with every
    candidate, as many as the settings try; the smaller of equals.
    """
    rooms = {
        devices: min(_room(candidate, hardware, settings, devices) for candidate in fitting)
        for devices in settings.replica_sizes(hardware.linked_devices)
    }
    wanted = {devices: min(room, settings.swept_to) for devices, room in rooms.items()}
    devices = max(wanted, key=lambda count: (wanted[count], -count))
    return devices, max(wanted[devices], 1)


def _room(candidate: Candidate, hardware: Hardware, settings: Settings, devices: int) -> int:
    usable = usable_bytes(hardware, devices, settings.memory_share)
    return max_requests(usable, candidate.weights, candidate.cache_per_token, settings.tokens)


def _points(
    candidate: Candidate, hardware: Hardware, settings: Settings, devices: int
) -> list[Point]:
    """Return the candidate at work with every number of requests that fits."""
    room = _room(candidate, hardware, settings, devices)
    batches = [batch for batch in settings.batches if batch <= room]
    if batches and batches[-1] < min(room, settings.max_batch):
        batches.append(min(room, settings.max_batch))
    cost = candidate.cost(devices)
    prompt = cost.pass_seconds(0, 0, 0, settings.prompt_tokens)
    return [
        _point(candidate, hardware, settings, devices, batch, prompt, cost) for batch in batches
    ]


def _point(
    candidate: Candidate,
    hardware: Hardware,
    settings: Settings,
    devices: int,
    batch: int,
    prompt: float,
    cost: PassCost,
) -> Point:
    best = best_round(cost, candidate.acceptance, batch, settings.context)
    per_second = 1 / (prompt + settings.new_tokens / (best.tokens_per_second * batch))
    hourly = 3600 * per_second
    load = settings.requests_per_hour
    replicas = 1 if load is None else math.ceil(load / (hourly * settings.utilisation))
    served = hourly if load is None else load
    device_hours = 1e6 * devices * replicas / (served * settings.new_tokens)
    return Point(
        devices=devices,
        batch=batch,
        drafts=best.drafts,
        tokens_per_pass=best.tokens,
        tokens_per_second=per_second * settings.new_tokens / batch,
        requests_per_hour=hourly / devices,
        needed=devices * replicas,
        device_hours_per_million=device_hours,
        dollars_per_million=device_hours * hardware.dollars_per_hour,
        cache_gigabytes=batch * settings.tokens * candidate.cache_per_token / GIGA,
    )


class ReplicaAtWork:
    """A replica for the simulation: the best round for each number of requests."""

    def __init__(self, row: Row, hardware: Hardware, settings: Settings) -> None:
        candidate, point = row.candidate, row.point
        self._cost, self._acceptance = candidate.cost(point.devices), candidate.acceptance
        self._usual, self._lengths = settings.context, {}
        usable = usable_bytes(hardware, point.devices, settings.memory_share)
        self.max_batch, self.chunk = settings.max_batch, settings.prompt_rows
        self.cache_tokens = (usable - candidate.weights) / candidate.cache_per_token

    def round(
        self, batch: int, context: float, prompt_rows: int, prompt_context: float
    ) -> tuple[float, float]:
        if not batch:
            return self._cost.pass_seconds(0, 0, 0, prompt_rows, prompt_context), 0.0
        if batch not in self._lengths:
            best = best_round(self._cost, self._acceptance, batch, self._usual)
            self._lengths[batch] = best.drafts, best.tokens
        drafts, tokens = self._lengths[batch]
        seconds = self._cost.pass_seconds(batch, 1 + drafts, context, prompt_rows, prompt_context)
        return seconds + self._cost.draft_seconds(batch, drafts, context), tokens


def _service(row: Row, hardware: Hardware, settings: Settings) -> dict[str, float | None]:
    """Simulate one replica and return what its users see."""
    point = row.point
    replicas = point.needed / point.devices
    hourly = settings.requests_per_hour
    if hourly is None:
        hourly = settings.utilisation * point.requests_per_hour * point.devices
    requests = list(settings.arrivals) or poisson(
        SIMULATED,
        hourly / replicas / 3600,
        settings.prompt_tokens,
        settings.new_tokens,
        settings.length_spread,
        settings.seed,
    )
    replica = ReplicaAtWork(row, hardware, settings)
    largest = max(request.prompt + request.new for request in requests)
    if largest > replica.cache_tokens:  # a request of unusual length gets what there is
        limit = int(replica.cache_tokens)
        requests = [_cut(request, limit) for request in requests]
    return summary(simulate(requests, replica))


def _cut(request: Request, limit: int) -> Request:
    new = min(request.new, max(1, limit // 2))
    return request._replace(new=new, prompt=max(1, min(request.prompt, limit - new)))


def summary(served: Served) -> dict[str, float | None]:
    """Return percentiles of the waiting times, and how busy the replica was.

    None: no request has a second token.
    """
    return {
        "first_token_p50": percentile(served.first_token, 0.5),
        "first_token_p95": percentile(served.first_token, 0.95),
        "per_token_p50": _or_none(percentile(served.per_token, 0.5)),
        "per_token_p95": _or_none(percentile(served.per_token, 0.95)),
        "tokens_per_second": served.tokens_per_second,
        "utilisation": served.utilisation,
        "at_a_time": served.request_seconds / served.seconds,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _speedups(
    found: Sequence[Candidate], settings: Settings, devices: int, room: int
) -> dict[str, list[tuple[int, float]]]:
    """Decoding speed over the first candidate's, with the same requests and devices."""
    speedups: dict[str, list[tuple[int, float]]] = {c.name: [] for c in found}
    for batch in (batch for batch in settings.swept_batches if batch <= room):
        speeds = [_round(c, settings, devices, batch).tokens_per_second for c in found]
        for candidate, speed in zip(found, speeds, strict=True):
            speedups[candidate.name].append((batch, speed / speeds[0]))
    return speedups


def _round(candidate: Candidate, settings: Settings, devices: int, batch: int) -> Round:
    return best_round(candidate.cost(devices), candidate.acceptance, batch, settings.context)


def _break_even(
    found: Sequence[Candidate],
    settings: Settings,
    devices: int,
    speedups: dict[str, list[tuple[int, float]]],
    batch: int,
) -> list[BreakEven]:
    points = []
    for candidate in found:
        cost = candidate.cost(devices)
        other = candidate.base or found[0].name
        if candidate.name != other:
            base = dict(speedups[other])
            gains = [(b, s / base[b]) for b, s in speedups[candidate.name]]
            last = largest_gaining_batch(gains, GAIN)
            points.append(BreakEven(candidate.name, "batch", last, over=other))
        if candidate.base:
            for requests in dict.fromkeys((1, batch)):
                least = break_even_acceptance(cost, requests, settings.context, settings.max_drafts)
                points.append(BreakEven(candidate.name, "acceptance", least, requests))
        elif isinstance(cost, Roofline):
            points.append(BreakEven(candidate.name, "rows", cost.balanced_rows))
    return points
