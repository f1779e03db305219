"""Compare the formula of the speed-up with the measured speed-up, on the same texts."""

from lessons.lesson06_speculative.measure import Measured


def tokens_per_pass(alpha: float, drafts: int) -> float:
    """Return 1 + alpha + ... + alpha^K, if each of K drafts is accepted with probability alpha."""
    return sum(alpha**j for j in range(drafts + 1))


def print_speedups(by_depth: dict[int, Measured]) -> None:
    """Print a line for each number of drafts K > 0. by_depth[0] is plain decoding."""
    step = by_depth[0].seconds_verify / by_depth[0].passes  # seconds of a plain pass
    print("   K  1 - alpha     c        r    tokens: formula, run  speed-up: formula, run")
    for drafts, found in by_depth.items():
        if drafts == 0:
            continue
        c = found.seconds_verify / found.passes / step
        r = found.seconds_draft / found.passes / step
        formula = tokens_per_pass(found.alpha, drafts)
        speedup = found.tokens_per_second / by_depth[0].tokens_per_second
        print(
            f"  {drafts:>2} {100 * (1 - found.alpha):>7.1f} % {c:>7.2f} x {r:>6.2f} x"
            f" {formula:>7.2f}, {found.tokens_per_pass:.2f} tokens"
            f" {formula / (c + r):>7.2f} x, {speedup:.2f} x"
        )
