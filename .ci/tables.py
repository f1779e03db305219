"""Write the measured tables into README.md and data/results/README.md, from the JSON files in
data/results.

    python .ci/tables.py

Between the markers <!-- table:NAME --> and <!-- end --> stands the text that BLOCKS makes of
data/results/NAME.json, or one of the texts in SUMMARIES. tests/test_readme.py requires text and
files to agree. data/results/README.md lists the commands that write the files."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from minimtp.bench.decode import report as decoding
from minimtp.bench.decode import tokens_per_round
from minimtp.bench.kernels import report as kernels
from minimtp.bench.quality import report as quality
from minimtp.bench.table_text import aligned
from minimtp.bench.training import report as training
from minimtp.compare import report as comparison
from minimtp.compare.claims import judge
from minimtp.machine import other_work

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
PAGES = (ROOT / "README.md", RESULTS / "README.md")
DATES = {  # when the files were measured; 2026-11-27 unless listed
    "bench-rounds-laptop": "2026-11-24",
    "compare-quick-avx2": "2026-11-23",
    "quality-quick": "2026-11-23",
}
# By the name of the file; * marks results of an earlier version, whose kernels were slower.
PROCESSORS = {
    "compare-quick": "AMD Zen 4",
    "compare-quick-intel": "Intel Emerald Rapids",
    "compare-quick-zen5": "AMD Zen 5 *",
    "compare-quick-avx2": "AMD, without AVX-512 *",
    "compare-laptop": "AMD Zen 4",
    "compare-laptop-intel": "Intel Emerald Rapids",
    "compare-laptop-zen5": "AMD Zen 5 *",
}
TRAINING_ELSEWHERE = {  # by the name of the file: what to add to the name of the model
    "bench-train-one-thread": "",
    "bench-train-laptop-one-thread": "",
    "bench-train-plain": ", plain array code",
    "bench-train-intel": ", Intel Emerald Rapids",
}

Result = Mapping[str, object]


def measured(name: str) -> Result:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def dated(make: Callable[[Result], str], name: str) -> str:
    return f"{make(measured(name))}\n\nMeasured on {DATES.get(name, '2026-11-27')}."


def compared(result: Result) -> str:
    """The tables of `minimtp compare`, then the published claims."""
    configurations, machine = result["configurations"], result["machine"]
    table = partial(comparison.table, configurations, markdown=True)
    claims = judge({c["name"]: c for c in configurations})
    rows = [[c.subject, c.claimed, c.measured, c.verdict] for c in claims]
    conditions = (
        f"One run of `minimtp compare --preset {result['preset']}`: {result['seconds'] / 60:.1f} "
        "minutes on "
        f"{machine['cores']} cores of {machine['processor']}{other_work(machine)}; Python "
        f"{machine['python']}, "
        f"NumPy {machine['numpy']}, {result['device']['kernels']} kernels; text fingerprint "
        f"`{result['corpus']['fingerprint'][:16]}`. {comparison.memory(configurations)}"
    )
    return "\n\n".join(
        [
            table(comparison.SUMMARY),
            comparison.SUMMARY_LEGEND,
            *(f"{title}:\n\n{table(columns)}" for title, columns in comparison.DECODING.items()),
            f"The models:\n\n{table(comparison.MODELS)}",
            aligned([["claim", "published", "measured", ""], *rows], markdown=True),
            conditions,
        ]
    )


def summary() -> str:
    """The short table of the front page."""
    result = measured("compare-laptop")
    machine = result["machine"]
    table = comparison.table(result["configurations"][:3], comparison.SUMMARY, markdown=True)
    return (
        f"{table}\n\n"
        f"`minimtp compare --preset laptop`: 6 million parameters, {result['seconds'] / 60:.0f} "
        "minutes on "
        f"{machine['cores']} cores of an AMD Zen 4 server. {comparison.SUMMARY_LEGEND}"
    )


def processors() -> str:
    """The speed-ups of `minimtp compare` on every processor that it ran on."""
    lines = [["model", "processor", "standard, tokens/s", "MTP", "MTP + QAT int4"]]
    for name, processor in PROCESSORS.items():
        result = measured(name)
        standard, mtp, qat, _ = result["configurations"]
        speedups = [f"{c['speedup']:.2f}x, {c['speedup_t1']:.2f}x" for c in (mtp, qat)]
        plain = f"{standard['tokens_per_second']:,.0f}"
        lines.append([result["preset"], processor, plain, *speedups])
    return aligned(lines, markdown=True)


def training_elsewhere() -> str:
    """How many times as fast as PyTorch minimtp trains: median, and range over the rounds."""
    lines = [["model", "threads", "over PyTorch", "over torch.compile", "file"]]
    for name, note in TRAINING_ELSEWHERE.items():
        result = measured(name)
        cells = [result["preset"] + note, str(result["threads"])]
        for other in ("torch", "torch.compile"):
            ratio = result["ratios"].get(other)
            text = "{median:.2f}x ({lowest:.2f}-{highest:.2f})".format(**ratio) if ratio else ""
            cells.append(text)
        lines.append([*cells, f"[{name}.json]({name}.json)"])
    return aligned(lines, markdown=True)


BLOCKS: dict[str, Callable[[Result], str]] = {  # by the name of the file
    "compare-quick": compared,
    "compare-laptop": compared,
    "bench-decode": decoding.readme,
    "bench-rounds-laptop": partial(tokens_per_round.table, markdown=True),
    "bench-kernels": kernels.readme,
    "bench-train": training.readme,
    "bench-train-laptop": training.readme,
    "quality-quick": quality.readme,
}
SUMMARIES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "processors": processors,
    "training-elsewhere": training_elsewhere,
}


def updated(page: str) -> str:
    """Return the page with the text of every block between its markers."""

    def block(found: re.Match) -> str:
        begin, name, end = found[1], found[2], found[3]
        text = SUMMARIES[name]() if name in SUMMARIES else dated(BLOCKS[name], name)
        return f"{begin}{text}\n{end}"

    return re.sub(r"(<!-- table:(\S+) -->\n).*?(<!-- end -->)", block, page, flags=re.DOTALL)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
