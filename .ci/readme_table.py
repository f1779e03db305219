"""Write the measured tables into README.md, from the figures under data/results.

    minimtp bench --all && cp runs/bench-quick/*.json runs/bench-quick/*.png runs/bench-quick/*/quality.png data/results
    minimtp compare --preset laptop && cp runs/compare-laptop/compare.json data/results/compare-laptop.json
    minimtp bench train --preset laptop --out data/results/bench-train-laptop.json
    minimtp bench train --threads 1 --out data/results/bench-train-one-thread.json
    minimtp bench train --preset laptop --threads 1 --out data/results/bench-train-laptop-one-thread.json
    minimtp bench train --kernels plain --out data/results/bench-train-plain.json
    minimtp bench rounds runs/compare-laptop/mtp --out runs && cp runs/bench-rounds.json data/results/bench-rounds-laptop.json
    python .ci/readme_table.py

Between the markers <!-- table:NAME --> and <!-- end --> stands what BLOCKS makes of data/results/NAME.json, and `processors`.
tests/test_readme.py holds README and figures equal.
"""

import json
import re
from functools import partial
from pathlib import Path

from minimtp.bench.decode import report as decode_report
from minimtp.bench.decode import tokens_per_round as decode_rounds
from minimtp.bench.kernels import report as kernels
from minimtp.bench.quality import report as quality_report
from minimtp.bench.training import report as train_report
from minimtp.compare import claims
from minimtp.machine import other_work

ROOT = Path(__file__).resolve().parent.parent


def compared(result: dict) -> str:
    """The table of `minimtp compare`, then what became of each claim."""
    machine = result["machine"]
    lines = [
        claims.table(result["configurations"], markdown=True),
        "",
        f"One run of `minimtp compare --preset {result['preset']}` ({result['seconds'] / 60:.1f} minutes; "
        f"{machine['processor']}{other_work(machine)}, {machine['cores']} cores, "
        f"Python {machine['python']}, NumPy {machine['numpy']}, {result['device']['kernels']} kernels), text fingerprint "
        f"`{result['corpus']['fingerprint'][:16]}`; {claims.memory(result['configurations'])}. What became of the published "
        "claims:",
        "",
    ]
    return "\n".join(lines + [f"* {claim['described']}" for claim in result["claims"]])


PROCESSORS = {  # what was measured where, by the name of the figures' file
    "compare-quick": "AMD Zen 4", "compare-quick-intel": "Intel Emerald Rapids", "compare-quick-zen5": "AMD Zen 5 *",
    "compare-quick-avx2": "AMD, without AVX-512 *", "compare-laptop-intel": "Intel Emerald Rapids",
    "compare-laptop": "AMD Zen 4", "compare-laptop-zen5": "AMD Zen 5 *",
}  # fmt: skip


def processors() -> str:
    """The speed-ups of `minimtp compare` on every processor that it ran on."""
    lines = [
        "| preset | processor | standard, tokens/s | MTP | MTP + QAT int4 | MTP T=1 | MTP + QAT int4 T=1 |"
    ]
    lines.append("| --- | --- |" + " ---: |" * 5)
    for name, processor in PROCESSORS.items():
        result = figures(name)
        standard, mtp, qat, _ = result["configurations"]
        speedups = [f"{c[column]:.2f}x" for column in ("speedup", "speedup_t1") for c in (mtp, qat)]
        cells = [result["preset"], processor, f"{standard['tokens_per_second']:,.0f}", *speedups]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", "The rows with * are of an earlier version, whose kernels were slower."]
    )


def figures(name: str) -> dict:
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text(encoding="utf-8"))


BLOCKS = {  # by the name of the figures' file
    "compare-quick": compared, "compare-laptop": compared, "bench-decode": decode_report.readme,
    "quality-quick": quality_report.readme, "bench-kernels": kernels.readme, "bench-train": train_report.readme,
    "bench-train-laptop": train_report.readme, "bench-rounds-laptop": partial(decode_rounds.table, markdown=True),
}  # fmt: skip


def updated(readme: str) -> str:
    """README.md with every block put between its markers."""

    def block(found: re.Match) -> str:
        content = processors() if found[2] == "processors" else BLOCKS[found[2]](figures(found[2]))
        return f"{found[1]}{content}\n{found[3]}"

    return re.sub(r"(<!-- table:(\S+) -->\n).*?(<!-- end -->)", block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
