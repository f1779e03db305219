"""Lesson 12's output: two numbers of a machine, speed-ups, waiting times, and verdicts."""

from lessons import course
from lessons.lesson12_worth_it.core import ROWS, Product
from minimtp.plan.candidates import BOTH, MTP, STANDARD
from minimtp.plan.costs.sizes import Hardware
from minimtp.plan.costs.speculation import largest_gaining_batch
from minimtp.plan.evidence import claims, published
from minimtp.plan.measure_run import DRAFTING
from minimtp.plan.planning import Plan, ReplicaAtWork, Row, summary
from minimtp.plan.serving import poisson, simulate
from minimtp.plan.settings import SIMULATED, Settings

SHOWN = (1, 4, 16, 64, 256)  # requests at a time
LOADS = (0.2, 0.5, 0.8, 0.95, 1.05)  # of what one card can serve
SPEED_CLAIMS = (  # the article's: configuration, and the lower end of the claimed speed-up
    ("MTP, 1.5 to 3 times", MTP, 1.5),
    ("MTP, 1.8 to 2.5 times", MTP, 1.8),
    ("MTP + QAT int4, 3 to 5 times", BOTH, 3.0),
)


def rows_of(plan: Plan) -> dict[str, Row]:
    return {row.candidate.name: row for row in plan.rows}


def show_wrong_way(plan: Plan) -> None:
    """Print the requests per hour of a full card: what one request's speed-up promises."""
    rows = rows_of(plan)
    before, after = (rows[name].point.requests_per_hour for name in (STANDARD, BOTH))
    one = dict(plan.speedups[BOTH])[1]
    print("requests per hour that one H100 serves, Llama 3.1 8B")
    print(f"  {'16-bit weights, no drafts':<38}{before:>10,.0f}")
    print(f"  {'times the speed-up of one request':<38}{one * before:>10,.0f}")
    print(f"  {'MTP + QAT int4, with full batches':<38}{after:>10,.0f}")


def show_products(products: dict[str, Product]) -> None:
    """Print the two numbers of each format, and the time of T rows as predicted and measured."""
    print(f"\n{'one core of this machine':<28}{'read':>12}{'peak':>16}{'balance':>14}")
    for name, p in products.items():
        read, peak = f"{p.read / 1e9:.1f} GB/s", f"{p.peak / 1e9:,.0f} GFLOP/s"
        print(f"  {name:<26}{read:>12}{peak:>16}{p.balance:>9.1f} rows")
    heads = "".join(f"{f'T = {rows}':>11}" for rows in ROWS)
    print(f"\n{'time of a product with T rows':<28}{heads}")
    for name, p in products.items():
        for kind, seconds in (("predicted", p.predicted), ("measured", p.seconds.__getitem__)):
            cells = "".join(f"{1e3 * seconds(rows):>8.2f} ms" for rows in ROWS)
            print(f"  {f'{name}, {kind}':<26}{cells}")


def show_speedups(title: str, plan: Plan) -> None:
    """Print the speed-ups by requests at a time."""
    print(f"\n{title:<30}" + "".join(f"{f'B = {batch}':>10}" for batch in SHOWN))
    for name, pairs in list(plan.speedups.items())[1:]:
        found = dict(pairs)
        print(f"  {name:<28}" + "".join(f"{found[batch]:>8.2f} x" for batch in SHOWN))


def show_break_even(plan: Plan) -> None:
    """Print where the gain of drafting ends."""
    for point in plan.break_even:
        if point.kind == "batch" and point.name in (MTP, BOTH):
            gain = f"{point.name} is at least 5 % faster than {point.over}"
            print(f"  {gain:<54}up to {point.value or 0:,} at a time")


def show_measured(plan: Plan) -> None:
    """Print what drafting gains for a model that was measured."""
    pairs = dict(plan.speedups[DRAFTING])
    batches = [batch for batch in (1, 2, 4, 8, 16) if batch in pairs]
    heads = "".join(f"{f'B = {batch}':>10}" for batch in batches)
    print(f"\n{'lesson 5, from measured passes':<30}{heads}")
    print(f"  {'drafts over no drafts':<28}" + "".join(f"{pairs[b]:>8.2f} x" for b in batches))


def show_service(plan: Plan, card: Hardware, settings: Settings) -> None:
    """Simulate requests that arrive at random on one card, at several loads."""
    heads = ("first token p50", "p95", "per token p95", "at a time")
    print("\nwaiting, MTP + QAT int4, one H100" + "".join(f"{head:>17}" for head in heads))
    row = rows_of(plan)[BOTH]
    for load in LOADS:
        per_second = load * row.point.requests_per_hour / 3600
        lengths = settings.prompt_tokens, settings.new_tokens, settings.length_spread
        requests = poisson(SIMULATED, per_second, *lengths, settings.seed)
        seen = summary(simulate(requests, ReplicaAtWork(row, card, settings)))
        names = ("first_token_p50", "first_token_p95", "per_token_p95")
        cells = "".join(f"{1e3 * seen[name]:>14,.0f} ms" for name in names)
        print(f"  {f'{100 * load:.0f} % of its capacity':<31}{cells}{seen['at_a_time']:>17.1f}")


def show_judgements(here: Plan) -> None:
    """Print the verdicts on claims, for large models and here, and the errors of predictions."""
    show_claims()
    show_claims_here(here)
    show_errors()


def show_claims() -> None:
    """Print the verdicts on the article's claims, for large models."""
    print(f"\n{'verdict':<25}the article's claims, for large models on cards")
    for claim in claims.judge_all():
        print(f"  {claim.brief:<23}{claim.claim}")


def show_claims_here(here: Plan) -> None:
    """Print the verdicts on the claimed speed-ups for one core of this machine."""
    print(f"\n{'verdict':<25}the claimed speed-ups, SmolLM2-135M on one core here")
    for label, name, least in SPEED_CLAIMS:
        last = largest_gaining_batch(here.speedups[name], least)
        verdict = f"up to {last} at a time" if last else "not reached"
        print(course.quoted(f"{verdict:<21}{label}"))


def show_errors() -> None:
    """Print how far predictions are from published numbers."""
    print("\npredicted beside published numbers")
    for line in published.totals():
        print(f"  {line}")
