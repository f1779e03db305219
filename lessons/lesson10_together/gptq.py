"""The model with heads, rounded to int4 by GPTQ (lesson 7): the fairer opponent of training with
rounding. It has the same format as the other int4 models, so a pass takes as long as theirs. Only
its quality and memory are measured.
"""

from pathlib import Path

from minimtp.backend import Device
from minimtp.backend import numpy as np
from minimtp.bench.interleaved import Variant
from minimtp.bench.memory import peak_memory
from minimtp.compare.result_cache import Figures
from minimtp.decode.drafters.deploy import deploy
from minimtp.files import delete_leftovers
from minimtp.formats.load import load
from minimtp.model.matrix import bits_per_weight, weight_bytes
from minimtp.training.data.corpus import Corpus
from minimtp.training.evaluate import evaluate
from minimtp.training.quantize import quantize
from minimtp.training.run import checkpoint

TITLE = "MTP, int4 by GPTQ"


def round_with_gptq(mtp: Path, out: Path, corpus: Corpus) -> None:
    """Round the trained model `mtp` with GPTQ, calibrated on training text, if `out` is missing."""
    delete_leftovers(out)  # of a quantization that was killed after its checkpoint
    if not checkpoint.exists(out):
        quantize(load(mtp), out, method="gptq", calibration=corpus)


def measure(
    path: Path, standard: Figures, corpus: Corpus, prompt: np.ndarray, count: int, device: Device
) -> Figures:
    """Return the quality and the memory of a model as `minimtp compare` measures them."""

    def build() -> Variant:
        target, drafter = deploy(load(path, device.name).model)
        return Variant(TITLE, target, drafter, drafter.max_depth)

    loaded = load(path, device.name)
    bits = evaluate(loaded, corpus).bits_per_byte
    return {
        "title": TITLE,
        "bits_per_byte": bits,
        "quality_percent": 100.0 * standard["bits_per_byte"] / bits,
        "weight_bytes": weight_bytes(loaded.model),
        "bits_per_weight": bits_per_weight(loaded.model),
        "peak_memory_bytes": peak_memory(build, prompt, count),
    }
