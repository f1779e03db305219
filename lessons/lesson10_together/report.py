"""Lesson 10's output: the headline and other choices, then the full results behind them."""

from collections.abc import Sequence

from lessons import course
from lessons.lesson10_together.repetition import generate_texts, repetition_rate
from minimtp.backend import numpy as np
from minimtp.compare.claims import judge
from minimtp.compare.result_cache import Figures
from minimtp.decode.sampling.params import GREEDY, SamplingParams
from minimtp.training.data.corpus import Corpus
from minimtp.training.run.folder import LoadedRun

# The results of standard, MTP, MTP + QAT int4 and MTP rounded, in this order.
Results = Sequence[Figures]


def show_headline(found: Results, with_gptq: Figures, recomputing: float) -> None:
    """Print the headline and what is behind it. From line to line, one choice changes.

    with_gptq: MTP rounded by GPTQ. recomputing: tokens per second of the slowest method, which also
    has one prompt only.
    """
    plain, _, both, _ = found
    size = plain["weight_bytes"] / both["weight_bytes"]
    print("MTP + QAT int4: the headline, and other choices")
    for line, value, unit in (
        ("times as fast as recomputing everything", both["tokens_per_second"] / recomputing, "x"),
        ("  as the same decoder without drafts", ratio_of_speeds(both, plain, ""), "x"),
        ("    at temperature 1", ratio_of_speeds(both, plain, "_t1"), "x"),
        ("times smaller than float32 weights", size, "x"),
        ("  than 16-bit weights", size / 2, "x"),
        ("quality kept", both["quality_percent"], "%"),
        ("  with GPTQ instead of QAT", with_gptq["quality_percent"], "%"),
    ):
        print(f"  {line:<42}{value:>10.2f} {unit}")


def ratio_of_speeds(one: Figures, other: Figures, suffix: str) -> float:
    """Return the ratio of the tokens per second over all prompts."""
    key = f"tokens_per_second{suffix}"
    return one[key] / other[key]


def show_quality(found: Results) -> None:
    headings = "bits per byte    quality       weights  bits per weight    memory"
    print(f"\n{'':<24}{headings}")
    for c in found:
        quality = f"{c['bits_per_byte']:>8.3f} bits{c['quality_percent']:>9.2f} %"
        size = f"{c['weight_bytes']:>12,} B{c['bits_per_weight']:>17.2f}"
        memory = f"{c['peak_memory_bytes'] / 1e6:>7.2f} MB"
        print(f"  {c['title']:<22}{quality}{size}{memory}")


def show_speeds(found: Results, title: str, suffix: str) -> None:
    """Print the speeds at one temperature: of MTP and MTP + QAT int4, also without drafts.

    suffix: the end of these results' names.
    """
    headings = f"{'ratio of speeds':>18}{'median of ratios':>19}"
    print(f"\n{title:<28}{'speed':>17}{headings}{'tokens':>12}")
    for c in found:
        if f"speedup_without_drafts{suffix}" in c:
            names = ("tokens_per_second_without_drafts", "speedup_without_drafts")
            plain = (c[f"{name}{suffix}"] for name in names)
            show_speed(f"{c['title']}, no drafts", found[0], suffix, *plain, 1.0)
        names = ("tokens_per_second", "speedup", "tokens_per_step")
        show_speed(c["title"], found[0], suffix, *(c[f"{name}{suffix}"] for name in names))
    if not suffix:
        equal, texts, ties = (
            sum(c["greedy_texts"][name] for c in found) for name in ("equal", "texts", "ties")
        )
        different = f"; {ties} differ after a tie of the two best tokens" if ties else ""
        print(f"  {equal} of {texts} texts equal plain decoding{different}")


def show_speed(
    title: str, standard: Figures, suffix: str, speed: float, speedup: float, tokens: float
) -> None:
    ratio = speed / standard[f"tokens_per_second{suffix}"]
    ratios = f"{ratio:>16.2f} x{speedup:>17.2f} x"
    print(f"  {title:<26}{speed:>8,.0f} tokens/s{ratios}{tokens:>8.2f} per pass")


def show_repetition(
    standard: LoadedRun, corpus: Corpus, prompts: Sequence[np.ndarray], count: int
) -> None:
    start = len(prompts[0])
    length = start + count
    human = corpus.validation_windows(len(prompts) * length, sequence_length=length)
    texts = {
        "generated at temperature 0": generate_texts(standard, prompts, count, GREEDY),
        "generated at temperature 1": generate_texts(standard, prompts, count, SamplingParams()),
        "written by people": human.tolist(),
    }
    print("\nbytes that follow from the longest repetition of at least three bytes")
    for name, text in texts.items():
        print(f"  {name:<32}{100 * repetition_rate(text, start):>6.0f} %")


def show_claims(found: Results) -> None:
    print("\npublished claims and our measurements")
    claims = judge({c["name"]: c for c in found})
    print(course.quoted("\n".join(claim.describe() for claim in claims)))
