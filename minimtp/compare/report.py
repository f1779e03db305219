"""The tables of a comparison, as text or as Markdown: a short one, then the details."""

from collections.abc import Callable, Sequence
from pathlib import Path

from minimtp.bench.table_text import aligned
from minimtp.compare.claims import judge
from minimtp.compare.result_cache import Figures
from minimtp.quoting import command

Column = tuple[str, Callable[[Figures], str]]  # its heading, and its cell for a configuration


def _column(heading: str, key: str, pattern: str, scale: float = 1) -> Column:
    return heading, lambda configuration: pattern.format(configuration[key] * scale)


SUMMARY = (
    _column("quality", "quality_percent", "{:.1f} %"),
    _column("memory", "peak_memory_bytes", "{:.2f} MB", 1e-6),
    _column("tokens/s", "tokens_per_second", "{:,.0f}"),
    _column("speed-up", "speedup", "{:.2f}x"),
)
SUMMARY_LEGEND = (
    "Quality: the standard model's bits per byte as a percentage of the configuration's bits per "
    "byte, on held-out text. "
    "Memory: the peak while decoding, including weights, cache and buffers. "
    "Speed-up: over plain decoding of the standard model. Decoding is greedy (temperature 0)."
)
DECODING = {  # by the title of the table
    title: (
        _column("tokens/s", f"tokens_per_second{suffix}", "{:,.0f}"),
        _column("speed-up", f"speedup{suffix}", "{:.2f}x"),
        _column("tokens per pass", f"tokens_per_step{suffix}", "{:.2f}"),
        _column("longest draft", f"draft_depth{suffix}", "{}"),
    )
    for suffix, title in (("", "Temperature 0"), ("_t1", "Temperature 1, sampling"))
}
MODELS = (
    _column("bits per byte", "bits_per_byte", "{:.3f}"),
    _column("next byte correct", "next_token_accuracy", "{:.1%}"),
    _column("weights", "weight_bytes", "{:,.0f} B"),
    _column("bits per weight", "bits_per_weight", "{:.2f}"),
)


def table(
    configurations: Sequence[Figures], columns: Sequence[Column] = SUMMARY, markdown: bool = False
) -> str:
    """Return one row per configuration, as aligned text or as a Markdown table."""
    headings = ["configuration", *(heading for heading, _ in columns)]
    rows = [[c["title"], *(cell(c) for _, cell in columns)] for c in configurations]
    return aligned([headings, *rows], markdown)


def memory(configurations: Sequence[Figures]) -> str:
    """Describe the peak memory relative to the minimum that decoding needs."""
    ratios = [
        c["peak_memory_bytes"] / (c["weight_bytes"] + c["cache_bytes"]) for c in configurations
    ]
    low, high = min(ratios), max(ratios)
    return f"Decoding takes {low:.2f} to {high:.2f} times the memory of weights and cache."


def print_report(result: Figures, out: Path, report: Callable[[str], None]) -> None:
    """Report what compare.json holds: the short table, then the details."""
    configurations = result["configurations"]
    report("")
    report(table(configurations))
    report("")
    report(SUMMARY_LEGEND.replace(". ", ".\n"))
    report("")
    for title, columns in DECODING.items():
        report(title)
        report(table(configurations, columns))
        report("")
    report("The models")
    report(table(configurations, MODELS))
    report("")
    report(memory(configurations))
    for configuration in configurations:
        report(_greedy_texts(configuration))
    report("")
    report("Published claims")
    for claim in judge({c["name"]: c for c in configurations}):
        report(f"  {claim.describe()}")
    report("")
    device = result["device"]
    report(f"device {device['name']}, {device['kernels']} kernels; {result['seconds']:.0f} seconds")
    report(f"saved {out / 'compare.json'}; delete it to measure again")
    run = out / "mtp_qat_int4"
    watch = command("minimtp", "generate", run, "--prompt", "def ", "--show")
    report(f"watch it draft: {watch}")


def _greedy_texts(configuration: Figures) -> str:
    title, counts = configuration["title"], configuration["greedy_texts"]
    ties = f"; {counts['ties']} differ after a tie of the two best tokens" if counts["ties"] else ""
    return f"{title}: {counts['equal']} of {counts['texts']} texts equal plain decoding{ties}."
