"""The draft logits that llama.cpp computes for the models and heads that we export to it."""

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

from minimtp.backend import numpy as np
from minimtp.bench.baselines.llama_cpp.process import find_llama
from minimtp.engine.module import replace_modules
from minimtp.formats.eagle3.gguf import head_content
from minimtp.formats.export import export
from minimtp.model.heads import MultiTokenModel
from minimtp.quant.packed_matrix import PackedMatrix
from minimtp.training.tokenizers.byte_tokenizer import ByteTokenizer
from tests.formats.eagle3.cases import (
    CASES,
    DEPTH,
    TOKENS,
    draft_logits,
    loaded,
    model_of,
    packed_model_of,
)
from tests.formats.gguf.helpers import AsInGgml

# llama.cpp does not give the last layer's output to a head.
BLOCKS = ("q8_0", "q4_0")
LLAMA_CASES = [*(case for case in CASES if case != "other layers"), "f16", *BLOCKS]
ANCHORS, COLUMNS = [5, 13, 20], slice(None, None, 4)  # the logits that are stored
SESSION = Path(__file__).with_name("llama_session.py")


def any_model_of(case: str) -> MultiTokenModel:
    return model_of(case) if case in CASES else packed_model_of(case)


def ours(case: str) -> np.ndarray:
    """Return a part of our logits of a case: (K, anchors, V'/4).

    Inputs of blocks are rounded as in llama.cpp, which keeps their scales as float16: three steps
    of rounding move the logits by more than a mistake may.
    """
    model = any_model_of(case)
    if case in BLOCKS:
        model.heads.output = model.draft_output_matrix
        model = replace_modules(
            model, lambda _, m: AsInGgml(m) if isinstance(m, PackedMatrix) else None
        )
    return draft_logits(model)[:, ANCHORS, COLUMNS]


def stored_logits(case: str) -> np.ndarray:
    """Return the same part of those of llama.cpp, which also computes the model's states."""
    model = any_model_of(case)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder, f"{name}.gguf")) for name in ("model", "draft")}
        export(loaded(model), files["model"], draft=files["draft"])
        out, request = Path(folder, "logits.npy"), Path(folder, "request.json")
        asked = {
            "tokens": TOKENS.tolist(), "layers": list(model.heads.layers), "anchors": ANCHORS,
            "steps": DEPTH, "out": str(out),
        }  # fmt: skip
        request.write_text(json.dumps(files | asked))
        command = [find_llama().python, str(SESSION), str(request)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        logits = np.load(out)
    vocabulary = model.heads.draft_vocabulary
    if vocabulary is not None:
        others = np.delete(logits, vocabulary.ids.data, axis=2)
        assert np.isneginf(others).all()
        logits = logits[..., vocabulary.ids.data]
    return logits[..., COLUMNS]


def digest(case: str) -> str:
    """Return the SHA-256 of the names, types and bytes of the head's tensors in the file."""
    tensors = head_content(any_model_of(case), ByteTokenizer(), "draft").tensors
    text = hashlib.sha256()
    for name in sorted(tensors):
        kind, array = tensors[name]
        text.update(f"{name} {kind} {array.shape}".encode())
        text.update(array.tobytes())
    return text.hexdigest()
