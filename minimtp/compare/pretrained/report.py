"""The tables of a comparison on a pretrained model, as text or as Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path

from minimtp.bench.table_text import aligned
from minimtp.compare.pretrained.claims import judge, targets
from minimtp.compare.result_cache import Figures
from minimtp.quoting import command

SUMMARY_LEGEND = (
    "Quality: the float model's nats per token as a percentage of the configuration's, on held-out "
    "text.\nSpeed-up: over float32 without drafts. Each text is greedy (temperature 0), on one "
    "thread.\nRepeats: the share of the new text's 4-grams that occurred earlier in it."
)
QUALITY = {
    "nats per token": ("nats", "{:.4f}"),
    "quality, percent": ("quality_percent", "{:.2f}"),
    "KL from float32, nats": ("kl", "{:.4f}"),
    "same most likely token": ("agreement", "{:.1%}"),
}
SPEED = {
    "speed-up": ("speedup", "{:.2f}x"),
    "tokens per second": ("tokens_per_second", "{:,.0f}"),
    "tokens per forward pass": ("tokens_per_step", "{:.2f}"),
    "repeats": ("repetition", "{:.0%}"),
}
MISSING = "-"


def by_kind(configurations: Sequence[Figures], key: str, pattern: str, markdown: bool) -> str:
    """Return a table with a row per configuration and a column per kind of text."""
    kinds = list(dict.fromkeys(kind for c in configurations for kind in c.get(key, ())))
    rows = [
        [c["title"], *(_cell(c, key, kind, pattern) for kind in kinds)]
        for c in configurations
        if c.get(key)
    ]
    return aligned([["configuration", *kinds], *rows], markdown)


def _cell(configuration: Figures, key: str, kind: str, pattern: str) -> str:
    value = configuration[key].get(kind)
    return MISSING if value is None else pattern.format(value)


def sizes(configurations: Sequence[Figures], markdown: bool = False) -> str:
    """Return a table of weights and memory."""
    head = ["configuration", "weights", "16-bit size / this size", "memory"]
    half = configurations[0]["weight_bytes"] / 2
    rows = [
        [
            c["title"],
            f"{c['weight_bytes'] / 1e6:.1f} MB",
            f"{half / c['weight_bytes']:.2f}x",
            f"{c['memory_bytes'] / 1e6:.0f} MB",
        ]
        for c in configurations
    ]
    return aligned([head, *rows], markdown)


def tables(configurations: Sequence[Figures], markdown: bool = False) -> list[tuple[str, str]]:
    """Return (title, table) of everything that was measured."""
    found = [
        (title, by_kind(configurations, key, pattern, markdown))
        for title, (key, pattern) in (QUALITY | SPEED).items()
    ]
    return [*found, ("size", sizes(configurations, markdown))]


def print_report(result: Figures, out: Path, report: Callable[[str], None]) -> None:
    """Report what compare.json holds."""
    configurations = result["configurations"]
    for title, table in tables(configurations):
        report(f"\n{title}\n{table}")
    report(f"\n{SUMMARY_LEGEND}\n")
    for configuration in configurations:
        for line in _greedy_texts(configuration):
            report(line)
    by_name = {c["name"]: c for c in configurations}
    report("\nPublished claims")
    for claim in judge(by_name):
        report(f"  {claim.describe()}")
    report("\nOur own targets, for SmolLM2-135M on two cores")
    for claim in targets(by_name):
        report(f"  {claim.describe('target')}")
    if obstacle := result.get("llama_cpp_obstacle"):
        report(f"\nThere is no row of llama.cpp: {obstacle}")
    report("\nseconds of each step")
    report(", ".join(f"{name} {seconds:.0f}" for name, seconds in result["steps"].items()))
    device = result["device"]
    report(f"device {device['name']}, {device['kernels']} kernels; {result['seconds']:.0f} seconds")
    report(f"saved {out / 'compare.json'}; delete it to measure again")
    report(f"talk to it: {command('minimtp', 'chat', out / 'mtp_qat_int4')}")


def _greedy_texts(configuration: Figures) -> list[str]:
    counts = configuration.get("greedy_texts")
    if not counts:
        return []
    texts = sum(kind["texts"] for kind in counts.values())
    equal = sum(kind["equal"] for kind in counts.values())
    return [f"{configuration['title']}: {equal} of {texts} drafted texts equal plain decoding."]
