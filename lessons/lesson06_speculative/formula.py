"""What a round costs, and a formula for the speed-up beside the measured one."""

from lessons.lesson06_speculative.measure import BY_DEPTH, Measured


def tokens_per_pass(alpha: float, drafts: int) -> float:
    """Return 1 + alpha + ... + alpha^K, if each of K drafts is accepted with probability alpha."""
    return sum(alpha**j for j in range(drafts + 1))


def costs(by_depth: dict[int, Measured]) -> dict[int, tuple[float, float, float]]:
    """Return c, r and the speed-up for each number of drafts K > 0.

    c and r are the times for verifying and for drafting in a round, in passes of plain decoding,
    which is by_depth[0].
    """
    plain = by_depth[0]
    step = plain.seconds_verify / plain.passes  # seconds of a plain pass
    return {
        drafts: (
            found.seconds_verify / found.passes / step,
            found.seconds_draft / found.passes / step,
            found.tokens_per_second / plain.tokens_per_second,
        )
        for drafts, found in by_depth.items()
        if drafts > 0
    }


def print_costs(by_depth: dict[int, Measured]) -> None:
    """Print a line for each number of drafts."""
    print("   K   c: verify  r: draft  tokens per pass  speed-up")
    for drafts, (c, r, speedup) in costs(by_depth).items():
        tokens = by_depth[drafts].tokens_per_pass
        print(f"  {drafts:>2} {c:>9.2f} x {r:>7.2f} x {tokens:>9.2f} tokens {speedup:>7.2f} x")


def print_formula(temperature: float, by_depth: dict[int, Measured]) -> None:
    """Print the formula beside what was measured, in a line for each number of drafts."""
    rule = BY_DEPTH[temperature]
    print(f"\ntemperature {temperature}, {rule}: the formula and the run")
    print("   K  1 - alpha     c        r    tokens: formula, run  speed-up: formula, run")
    for drafts, (c, r, speedup) in costs(by_depth).items():
        found = by_depth[drafts]
        formula = tokens_per_pass(found.alpha, drafts)
        print(
            f"  {drafts:>2} {100 * (1 - found.alpha):>7.1f} % {c:>7.2f} x {r:>6.2f} x"
            f" {formula:>7.2f}, {found.tokens_per_pass:.2f} tokens"
            f" {formula / (c + r):>7.2f} x, {speedup:.2f} x"
        )
