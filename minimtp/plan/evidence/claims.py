"""The claims of the article behind this project, judged by the plan.

A verdict follows from numbers that are computed here, on the presets; the command beside it shows
them, and takes other models, hardware and loads. "holds if" names the condition with its bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from minimtp.plan.candidates import BOTH, INT4, MTP, STANDARD, Candidate, candidates
from minimtp.plan.costs.memory import usable_bytes, weight_bytes
from minimtp.plan.costs.sizes import GIGA, HALF, hardware, model
from minimtp.plan.costs.sizes import INT4 as LOW_BIT
from minimtp.plan.costs.speculation import best_round, largest_gaining_batch
from minimtp.plan.evidence.published import compare_with_published, tables
from minimtp.plan.planning import Plan, make_plan
from minimtp.plan.settings import Settings

HOLDS, HOLDS_IF, FAILS = "holds", "holds if", "does not hold"
IF_DEVICES = "if int4 saves devices"
CARD, MODEL, LARGE = "h100", "8b", "70b"
CARDS = ("laptop", "rtx4090", "a100", "h100", "h200")


@dataclass(frozen=True)
class Judged:
    """A claim, the verdict with its condition, the numbers, and the command that shows them."""

    claim: str
    verdict: str
    condition: str
    numbers: tuple[str, ...]
    command: str
    brief: str  # verdict and condition in a few words

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def judge_all() -> list[Judged]:
    """Judge every claim."""
    return [claim() for claim in CLAIMS]


def in_words(judged: Sequence[Judged]) -> str:
    """Return each claim with its verdict, the numbers and the command."""
    lines = []
    for claim in judged:
        lines.append(f'"{claim.claim}"')
        lines.append(f"  {claim.verdict} {claim.condition}".rstrip())
        lines += [f"    {number}" for number in claim.numbers]
        lines += [f"    $ {claim.command}", ""]
    lines.append(
        "Numbers are predictions for these presets; `minimtp plan --published` shows how far such "
        "predictions were off."
    )
    return "\n".join(lines)


def _plan(name: str, settings: Settings) -> Plan:
    card = hardware(CARD)
    return make_plan(candidates(model(name), card, settings), card, settings, with_service=False)


def _candidates(name: str, card: str, settings: Settings) -> dict[str, Candidate]:
    return {c.name: c for c in candidates(model(name), hardware(card), settings)}


def _speed(candidate: Candidate, batch: int, settings: Settings) -> float:
    """Tokens per second of one request, of decoding alone."""
    cost = candidate.cost(1)
    return best_round(cost, candidate.acceptance, batch, settings.context).tokens_per_second


def _speedups(
    name: str, card: str, configuration: str, settings: Settings
) -> list[tuple[int, float]]:
    """Return (requests at a time, speed-up over the standard configuration)."""
    found = _candidates(name, card, settings)
    chosen, standard = found[configuration], found[STANDARD]
    return [
        (batch, _speed(chosen, batch, settings) / _speed(standard, batch, settings))
        for batch in settings.batches
    ]


def _faster_by(claim: str, configuration: str, least: float, extra: Sequence[str]) -> Judged:
    """Judge a claimed speed-up by its lower end."""
    settings = Settings()
    pairs = _speedups(MODEL, CARD, configuration, settings)
    last = largest_gaining_batch(pairs, least)
    by_batch = dict(pairs)
    shown = ", ".join(f"{by_batch[b]:.2f}x at {b}" for b in (1, 8, 32, 128, 256))
    acceptances = ", ".join(
        f"{_of_one_request(configuration, a):.2f}x at {a:g}" for a in (0.5, 0.6, 0.7, 0.8, 0.9)
    )
    verdict, condition = (FAILS, "")
    if last:
        verdict = HOLDS_IF
        condition = (
            f"at most {last} requests are served at a time with 80 % of the drafts accepted, or "
            f"one at a time with at least {_least_acceptance(configuration, least):.0%}"
        )
    return Judged(
        claim,
        verdict,
        condition,
        (
            f"{configuration} over standard, {MODEL} on one {CARD}, by requests at a time: {shown}",
            f"one request, by acceptance: {acceptances}",
            *extra,
        ),
        f"minimtp plan --model {MODEL} --hardware {CARD} --acceptance 0.8 --batch 1",
        _up_to(last),
    )


def _up_to(batch: int | None) -> str:
    return f"up to {batch} at a time" if batch else FAILS


def _of_one_request(configuration: str, acceptance: float) -> float:
    values = Settings(max_batch=1, acceptance=(acceptance,))
    return dict(_speedups(MODEL, CARD, configuration, values))[1]


def _least_acceptance(configuration: str, least: float) -> float:
    """Return the acceptance at which one request is faster by the factor `least`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        is_enough = _of_one_request(configuration, middle) >= least
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def mtp_wide() -> Judged:
    return _faster_by("MTP makes decoding 1.5 to 3 times faster", MTP, 1.5, ())


def mtp_narrow() -> Judged:
    return _faster_by("MTP makes decoding 1.8 to 2.5 times faster", MTP, 1.8, ())


def both_faster_and_smaller() -> Judged:
    ratios = []
    for name in ("8b", "13b", "70b"):
        found = _candidates(name, CARD, Settings())
        ratio = found[STANDARD].weights / found[BOTH].weights
        ratios.append(f"{name}: {ratio:.2f} ({found[BOTH].weights / GIGA:.1f} GB)")
    return _faster_by(
        "MTP and QAT int4 together are 3 to 5 times faster, with memory divided by 3 to 4",
        BOTH,
        3.0,
        (
            f"16-bit weights over int4 weights with the head: {', '.join(ratios)}",
            "4-bit weights alone gain less with slow kernels: 1.88x measured where the model says "
            f"{_kernels_of_2023():.2f}x (gpt-fast, Llama 2 7B, A100)",
        ),
    )


def _kernels_of_2023() -> float:
    """Return the predicted gain of 4-bit weights in gpt-fast's table."""
    values = {c.at: c.predicted for c in compare_with_published() if c.table is tables()[0]}
    return values[4.5] / values[16]


def costs_fall() -> Judged:
    numbers, saved = [], []
    cases = (
        ("8b", "full devices", Settings()),
        ("8b", "full devices, at least 100 tokens/s", Settings(min_tokens_per_second=100.0)),
        ("70b", "full devices", Settings()),
        ("8b", "5,000 requests an hour", Settings(requests_per_hour=5000.0)),
        ("70b", "5,000 requests an hour", Settings(requests_per_hour=5000.0)),
    )
    for name, load, settings in cases:
        plan = _plan(name, settings)
        costs = {row.candidate.name: row.relative_cost for row in plan.rows}
        numbers.append(
            f"{name}, {load}: "
            + ", ".join(f"{c} {costs[c]:.0%}" for c in (MTP, INT4, BOTH) if costs[c] is not None)
        )
        if costs[BOTH] is not None and costs[BOTH] <= 0.4:
            saved.append(f"{name} with {load}")
    verdict = HOLDS if len(saved) == len(cases) else HOLDS_IF if saved else FAILS
    condition = ""
    if verdict == HOLDS_IF:
        condition = (
            f"4-bit weights let fewer devices serve the load ({'; '.join(saved)}), not at full "
            "load of a model that fits one device"
        )
    return Judged(
        "Inference costs fall by 60 to 75 %",
        verdict,
        condition,
        (f"cost of MTP + QAT int4 and its parts relative to standard, on {CARD}:", *numbers),
        f"minimtp plan --model {LARGE} --hardware {CARD} --requests-per-hour 5000",
        IF_DEVICES if verdict == HOLDS_IF else verdict,
    )


def large_on_small() -> Judged:
    settings = Settings()
    small, large = model("13b"), model(LARGE)
    half, low = weight_bytes(small, HALF), weight_bytes(large, LOW_BIT)
    share = settings.memory_share
    fits = {
        card: tuple(usable_bytes(hardware(card), 1, share) >= size for size in (half, low))
        for card in CARDS
    }
    true = [card for card in CARDS if fits[card] == (True, True)]
    false = [card for card in CARDS if fits[card] == (True, False)]
    neither = [card for card in CARDS if not fits[card][0]]
    bits = 8 * half / large.parameters
    least = f"{low / share / GIGA:.0f} GB"
    return Judged(
        "A 70B model runs on the hardware of a 13B",
        HOLDS_IF if true else FAILS,
        f"the card has at least {least}, where a 13B needs {half / share / GIGA:.0f} GB",
        (
            f"13B at 16 bits: {half / GIGA:.1f} GB; 70B at 4.5 bits (tables 8.5): "
            f"{low / GIGA:.1f} GB",
            f"both fit one device: {', '.join(true) or 'none'}; only the 13B: "
            f"{', '.join(false) or 'none'}; not even the 13B: {', '.join(neither) or 'none'}",
            f"to fit where only the 13B fits, the 70B would need {bits:.1f} bits per weight",
        ),
        f"minimtp plan --model {LARGE} --hardware a100 --max-devices 1 --batch 1",
        f"if it has {least}" if true else FAILS,
    )


def long_outputs() -> Judged:
    numbers, gains = [], []
    for new in (10, 100, 1000, 4000):
        settings = Settings(new_tokens=new)
        found = _candidates(MODEL, CARD, settings)
        seconds = [
            found[name].cost(1).pass_seconds(0, 0, 0, settings.prompt_tokens)
            + new / _speed(found[name], 1, settings)
            for name in (STANDARD, BOTH)
        ]
        gains.append(seconds[0] / seconds[1])
        numbers.append(f"{new} new tokens after {settings.prompt_tokens}: {gains[-1]:.2f}x")
    verdict = HOLDS if gains[-1] > gains[0] and gains[-1] >= 2 else FAILS
    return Judged(
        "It is worth it for long outputs",
        verdict,
        "",
        (
            f"whole request, MTP + QAT int4 over standard, {MODEL} on {CARD}, one at a time:",
            *numbers,
        ),
        f"minimtp plan --model {MODEL} --hardware {CARD} --new-tokens 1000 --batch 1",
        verdict,
    )


def latency() -> Judged:
    settings = Settings()
    found = _candidates(MODEL, CARD, settings)
    numbers = []
    for batch in (1, 8, 64):
        milliseconds = {n: 1e3 / _speed(found[n], batch, settings) for n in (STANDARD, MTP, BOTH)}
        numbers.append(
            f"{batch} at a time: "
            + ", ".join(f"{n} {value:.1f} ms" for n, value in milliseconds.items())
        )
    last = largest_gaining_batch(_speedups(MODEL, CARD, BOTH, settings), 1.5)
    return Judged(
        "It is worth it for latency",
        HOLDS_IF if last else FAILS,
        f"at most {last} requests are served at a time (1.5x)" if last else "",
        (f"time per token, {MODEL} on {CARD}:", *numbers),
        f"minimtp plan --model {MODEL} --hardware {CARD} --batch 1",
        _up_to(last),
    )


def constrained_devices() -> Judged:
    settings = Settings()
    numbers, int4_gains, draft_gains = [], [], []
    for card in ("laptop", "rtx4090"):
        found = _candidates(MODEL, card, settings)
        speed = {name: _speed(c, 1, settings) for name, c in found.items()}
        int4_gains.append(speed[INT4] / speed[STANDARD])
        draft_gains.append(speed[BOTH] / speed[INT4])
        numbers.append(
            f"{MODEL} on {card}: "
            + ", ".join(f"{name} {value:,.1f} tokens/s" for name, value in speed.items())
        )
    both = min(int4_gains) >= 2 and min(draft_gains) >= 1.2
    verdict = HOLDS if both else HOLDS_IF if min(int4_gains) >= 2 else FAILS
    return Judged(
        "It is worth it on constrained devices",
        verdict,
        ""
        if both
        else "it means int4: on a processor, drafting adds little to it, because few rows already "
        "make a pass compute-bound",
        tuple(numbers),
        f"minimtp plan --model {MODEL} --hardware laptop --batch 1",
        "int4 alone" if verdict == HOLDS_IF else verdict,
    )


def thousands_of_requests() -> Judged:
    numbers, int4, mtp = [], {}, {}  # by tokens/s: the largest share of devices that is saved
    cases = ((MODEL, 5_000), (MODEL, 100_000), (LARGE, 5_000), (LARGE, 50_000))
    for speed in (20, 100):
        saved = []
        for name, load in cases:
            settings = Settings(requests_per_hour=float(load), min_tokens_per_second=float(speed))
            rows = _plan(name, settings).rows
            needed = {row.candidate.name: row.point.needed for row in rows if row.point}
            saved.append((1 - needed[INT4] / needed[STANDARD], 1 - needed[BOTH] / needed[INT4]))
            counts = ", ".join(f"{config} {count}" for config, count in needed.items())
            numbers.append(f"{name}, {load:,} an hour, at least {speed} tokens/s: {counts}")
        int4[speed], mtp[speed] = (max(shares) for shares in zip(*saved, strict=True))
    verdict = HOLDS_IF if max(int4.values()) >= 0.3 else FAILS
    condition = (
        "the model needs several devices at 16 bits, or requests must be fast: at 20 tokens/s per "
        f"request int4 saves up to {int4[20]:.0%} of the devices and MTP {mtp[20]:.0%} of the "
        f"rest, at 100 tokens/s {int4[100]:.0%} and {mtp[100]:.0%}, because full batches leave "
        "drafts no spare arithmetic, and fast requests need small batches"
    )
    return Judged(
        "It is worth it at thousands of requests an hour",
        verdict,
        condition if verdict == HOLDS_IF else "",
        (f"{CARD} needed:", *numbers),
        f"minimtp plan --model {LARGE} --hardware {CARD} --requests-per-hour 50000 "
        "--min-tokens-per-second 100",
        IF_DEVICES if verdict == HOLDS_IF else verdict,
    )


CLAIMS: tuple[Callable[[], Judged], ...] = (
    mtp_wide,
    mtp_narrow,
    both_faster_and_smaller,
    costs_fall,
    large_on_small,
    long_outputs,
    latency,
    constrained_devices,
    thousands_of_requests,
)
