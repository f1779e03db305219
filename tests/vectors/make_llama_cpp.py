"""Store llama.cpp's logits of the models in tests/formats/gguf/llama_cpp/cases.py, as exported.

MINIMTP_LLAMA_CPP_PYTHON=/path/to/python python tests/vectors/make_llama_cpp.py
"""

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.modules["tests"] = types.ModuleType("tests")  # another package may have this name too
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

from minimtp.backend import numpy as np  # noqa: E402
from minimtp.bench.baselines.llama_cpp.decoder import decoder_of  # noqa: E402
from minimtp.bench.baselines.llama_cpp.process import find_llama  # noqa: E402
from tests.formats.gguf.llama_cpp.cases import CASES, COLUMNS, ROWS, TOKENS, model_of  # noqa: E402


def logits(name: str, grid: str) -> np.ndarray:
    """Return some of the logits with float32 keys and values: float32 (2, 65)."""
    decoder = decoder_of(model_of(name, grid), exact=True)
    return decoder.forward(TOKENS).logits[ROWS, COLUMNS]


if __name__ == "__main__":
    target = Path(__file__).with_name("llama_cpp.npz")
    np.savez_compressed(target, **{f"{name} {grid}": logits(name, grid) for name, grid in CASES})
    print(f"{target}: llama-cpp-python {find_llama().version}")
