"""Store the logits of `transformers` for the models of tests/formats/huggingface/folders.py."""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "formats" / "huggingface"))

from folders import CONFIGURATIONS, TOKENS, configuration, write_folder  # noqa: E402

from minimtp.backend import numpy as np  # noqa: E402


def logits(name: str) -> np.ndarray:
    """Return transformers' logits of every tenth token: float32 (4, V)."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), configuration(name))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            return model(torch.tensor(TOKENS)[None]).logits[0, 9::10].numpy()


if __name__ == "__main__":
    target = Path(__file__).with_name("huggingface.npz")
    np.savez_compressed(target, **{name: logits(name) for name in CONFIGURATIONS})
    print(f"{target}: transformers {transformers.__version__}, torch {torch.__version__}")
