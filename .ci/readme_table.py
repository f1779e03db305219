"""Write the measured table into README.md, from the figures under data/results.

    minimtp compare --out runs/compare-quick && cp runs/compare-quick/compare.json data/results/compare-quick.json
    python .ci/readme_table.py

tests/test_readme.py holds README and figures equal.
"""

import json
import re
from pathlib import Path

from minimtp import claims

ROOT = Path(__file__).resolve().parent.parent


def block(result: dict) -> str:
    """The Markdown that stands between the markers: the table, then what became of each claim."""
    machine = result["machine"]
    lines = [
        claims.table(result["configurations"], markdown=True),
        "",
        f"One run of `minimtp compare` ({result['seconds'] / 60:.1f} minutes; {machine['processor']}, "
        f"{machine['cores']} cores, "
        f"Python {machine['python']}, NumPy {machine['numpy']}, {result['device']['kernels']} kernels), text fingerprint "
        f"`{result['corpus']['fingerprint'][:16]}`. What became of the published claims:",
        "",
    ]
    return "\n".join(lines + [f"* {claim['described']}" for claim in result["claims"]])


def updated(readme: str, result: dict) -> str:
    """README.md with the block put between its markers."""
    pattern = r"(<!-- table:compare-quick -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{block(result)}\n{found[2]}", readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = ROOT / "README.md"
    figures = json.loads((ROOT / "data" / "results" / "compare-quick.json").read_text(encoding="utf-8"))
    path.write_text(updated(path.read_text(encoding="utf-8"), figures), encoding="utf-8")
