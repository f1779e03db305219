"""Write the measured tables into README.md, from the figures under data/results.

    minimtp bench --all && cp runs/bench-quick/*.json runs/bench-quick/*.png runs/bench-quick/*/quality.png data/results
    minimtp compare --preset laptop && cp runs/compare-laptop/compare.json data/results/compare-laptop.json
    minimtp bench train --preset laptop --out data/results/bench-train-laptop.json
    minimtp bench train --threads 1 --out data/results/bench-train-one-thread.json
    minimtp bench train --kernels plain --out data/results/bench-train-plain.json
    minimtp bench rounds runs/compare-laptop/mtp --out runs && cp runs/bench-rounds.json data/results/bench-rounds-laptop.json
    python .ci/readme_table.py

Between the markers <!-- table:NAME --> and <!-- end --> stands what BLOCKS makes of data/results/NAME.json.
tests/test_readme.py holds README and figures equal.
"""

import json
import re
from functools import partial
from pathlib import Path

from minimtp import claims
from minimtp.bench import decode_report, decode_rounds, kernels, quality_report, train_report

ROOT = Path(__file__).resolve().parent.parent


def compared(result: dict) -> str:
    """The table of `minimtp compare`, then what became of each claim."""
    machine = result["machine"]
    lines = [
        claims.table(result["configurations"], markdown=True),
        "",
        f"One run of `minimtp compare --preset {result['preset']}` ({result['seconds'] / 60:.1f} minutes; "
        f"{machine['processor']}, {machine['cores']} cores, "
        f"Python {machine['python']}, NumPy {machine['numpy']}, {result['device']['kernels']} kernels), text fingerprint "
        f"`{result['corpus']['fingerprint'][:16]}`. What became of the published claims:",
        "",
    ]
    return "\n".join(lines + [f"* {claim['described']}" for claim in result["claims"]])


BLOCKS = {  # by the name of the figures' file
    "compare-quick": compared, "compare-laptop": compared, "bench-decode": decode_report.readme,
    "quality-quick": quality_report.readme, "bench-kernels": kernels.readme, "bench-train": train_report.readme,
    "bench-train-laptop": train_report.readme, "bench-rounds-laptop": partial(decode_rounds.table, markdown=True),
}  # fmt: skip


def updated(readme: str) -> str:
    """README.md with every block put between its markers."""

    def block(found: re.Match) -> str:
        figures = json.loads((ROOT / "data" / "results" / f"{found[2]}.json").read_text(encoding="utf-8"))
        return f"{found[1]}{BLOCKS[found[2]](figures)}\n{found[3]}"

    return re.sub(r"(<!-- table:(\S+) -->\n).*?(<!-- end -->)", block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
