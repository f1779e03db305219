"""What lesson 10 prints of the figures that minimtp.compare measured: the headline first, then what stands behind it."""

from collections.abc import Sequence

from lessons import course
from lessons.lesson10_together.repetition import looked_up, rereading_speed, written
from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.compare.claims import judge
from minimtp.decode.sampling import GREEDY, SamplingParams
from minimtp.training.checkpoint import LoadedRun
from minimtp.training.data.corpus import Corpus

Figures = list[dict[str, object]]  # of standard, MTP, MTP + QAT int4, MTP rounded


def show_headline(
    found: Figures, standard: LoadedRun, prompt: np.ndarray, count: int, device: Device
) -> None:
    """The same measurements told twice."""
    plain, _, both, _ = found
    naive = rereading_speed(standard, prompt, count, device)
    told = {
        "times as fast": (both["tokens_per_second"] / naive, both["speedup_t1"], "x"),
        "times as small": (
            plain["weight_bytes"] / both["weight_bytes"],
            plain["weight_bytes"] / 2 / both["weight_bytes"],
            "x",
        ),
        "quality kept": (100 * both["next_token_accuracy"] / plain["next_token_accuracy"], both["quality_percent"], "%"),
    }
    print(f"{'MTP + QAT int4':<30}as a headline   carefully")
    for what, (headline, fair, unit) in told.items():
        print(f"  {what:<28}{headline:>11.2f} {unit}{fair:>11.2f} {unit}")


def show_quality(found: Figures) -> None:
    print(f"\n{'':<24}bits per byte    quality       weights   bits a weight   at work")
    for c in found:
        print(
            f"  {c['title']:<22}{c['bits_per_byte']:>8.3f} bits{c['quality_percent']:>9.2f} %{c['weight_bytes']:>12,} B"
            f"{c['bits_per_weight']:>16.2f}{c['peak_memory_bytes'] / 1e6:>7.2f} MB"
        )


def show_speeds(found: Figures, title: str, suffix: str) -> None:
    """suffix: of the figures at that temperature."""
    print(f"\n{title}")
    for c in found:
        speed, gain, tokens = (
            c[f"{name}{suffix}"] for name in ("tokens_per_second", "speedup", "tokens_per_step")
        )
        print(f"  {c['title']:<22}{speed:>10,.0f} tokens/s{gain:>8.2f} x{tokens:>8.2f} a pass")
    if not suffix:
        same, texts = (sum(c["greedy_texts"][name] for c in found) for name in ("equal", "texts"))
        ties = sum(c["greedy_texts"]["ties"] for c in found)
        parted = f", {ties} part at a tie" if ties else ""
        print(f"  {same} of {texts} texts are those of plain decoding{parted}")


def show_repetition(
    standard: LoadedRun, corpus: Corpus, prompts: Sequence[np.ndarray], count: int
) -> None:
    start = len(prompts[0])
    texts = {
        "by the model at temperature 0": written(standard, prompts, count, GREEDY),
        "by the model at temperature 1": written(standard, prompts, count, SamplingParams()),
        "by people": corpus.validation_windows(
            len(prompts) * (start + count), context_length=start + count
        ).tolist(),
    }
    print("\nbytes that the text before them would have told")
    for by, text in texts.items():
        print(f"  {by:<32}{100 * looked_up(text, start):>6.0f} %")


def show_claims(found: Figures) -> None:
    print("\nwhat is published, and what was measured here")
    print(
        course.quoted(
            "\n".join(claim.describe() for claim in judge({c["name"]: c for c in found}))
        )
    )
