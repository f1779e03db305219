"""Store the draft logits of the library speculators for the heads of tests/formats/eagle3/cases.py,
as we export them.
"""

import sys
import types
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.modules["tests"] = types.ModuleType("tests")  # another package may have this name too
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

from minimtp.backend import numpy as np  # noqa: E402
from tests.formats.eagle3.cases import CASES  # noqa: E402
from tests.formats.eagle3.speculators import digest, stored_logits  # noqa: E402

if __name__ == "__main__":
    target = Path(__file__).with_name("speculators.npz")
    vectors = {case: stored_logits(case) for case in CASES}
    vectors |= {f"{case}, digest": np.array(digest(case)) for case in CASES}
    np.savez_compressed(target, **vectors)
    print(f"{target}: speculators {version('speculators')}, torch {version('torch')}")
