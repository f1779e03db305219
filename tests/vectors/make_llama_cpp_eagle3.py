"""Store the draft logits of llama.cpp for the models and heads of tests/formats/eagle3/llama.py, as
we export them.

MINIMTP_LLAMA_CPP_PYTHON=/path/to/python python tests/vectors/make_llama_cpp_eagle3.py
"""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.modules["tests"] = types.ModuleType("tests")  # another package may have this name too
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

from minimtp.backend import numpy as np  # noqa: E402
from minimtp.bench.baselines.llama_cpp.process import find_llama  # noqa: E402
from tests.formats.eagle3.llama import LLAMA_CASES, digest, stored_logits  # noqa: E402

if __name__ == "__main__":
    target = Path(__file__).with_name("llama_cpp_eagle3.npz")
    vectors = {case: stored_logits(case) for case in LLAMA_CASES}
    vectors |= {f"{case}, digest": np.array(digest(case)) for case in LLAMA_CASES}
    np.savez_compressed(target, **vectors)
    print(f"{target}: llama-cpp-python {find_llama().version}")
